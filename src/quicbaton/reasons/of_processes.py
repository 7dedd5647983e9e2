"""Why processes do not understand or reach one another: links, commands, services, clusters."""

from __future__ import annotations

from typing import Final

from quicbaton.reasons.explanation import Explanations, caller, nobody, ours, peer

_LINKS: Final[Explanations] = {
    "crowded": peer("The other process does not read the messages that are sent to it."),
    "format_mismatch": peer(
        "The two processes have no baton format in common.", "Update the older one."
    ),
    "link_lost": peer(
        "The link broke, or the other process hung up.", "See its log, and try again."
    ),
    "local_only": caller(
        "The command names files or passes descriptors, and comes from another host.",
        "Run it on the host itself.",
        final=True,
    ),
    "malformed_message": peer("A message is malformed."),
    "message_too_long": peer("A message is longer than the limit."),
    "refused": peer("The other process, or the connection, refuses; the message says why."),
    "unexpected_event": ours("A machine got an event that its table has no cell for."),
    "unexpected_message": peer(
        "A message does not fit the conversation, or the other process does not know the command.",
        "Check that it is the process that you mean, and of this release.",
    ),
    "unreachable": peer(
        "No process answers there.",
        "Check that it runs: `quicbaton ps` shows the servers of this host.",
    ),
    "version_mismatch": peer(
        "The two processes speak different versions of the handoff protocol.",
        "Update the older one.",
    ),
    "wrong_name": peer("The other process gave a wrong name, of itself or of another process."),
    "wrong_user": peer("The command comes from another user.", "Run both as one user."),
}

_COMMANDS: Final[Explanations] = {
    "busy": nobody(
        "The process is doing something that excludes this; the message names it.",
        "Wait until that is done.",
    ),
    "no_listener": caller("The process serves no TCP."),
    "no_such_connection": caller(
        "The process has no such connection, or several whose names begin with that text.",
        "See `quicbaton ps`.",
    ),
    "no_such_socket": caller("The service has no socket of that number."),
    "no_such_worker": caller("The node has no such worker.", "Name one of those in the message."),
    "no_to": caller("No destination is named.", "Add `--to SERVER...`."),
    "no_worker": caller("No worker of the service serves now.", "See `quicbaton workers`."),
    "os": nobody("The operating system refused; the message says what and why."),
    "unknown": nobody(
        "A process of another release gave a reason that this one does not know; the message has "
        "its code.",
        "See the documentation of that release.",
    ),
    "unknown_host": caller("The name of the host has no address."),
    "unknown_server": caller(
        "The name fits no server, or several.", "Name a port that `quicbaton ps` shows."
    ),
}

_SERVICES: Final[Explanations] = {
    "alive": peer("A process that was declared dead lives, according to the kernel."),
    "died": peer("The new worker ended when it was to serve.", "See its output."),
    "idle": peer("The worker was never told to serve."),
    "predecessor_died": peer(
        "The old process died before it was done; its remaining connections are lost, and their "
        "clients are told."
    ),
    "roster_format": peer("The roster is another release's.", "Stop the service and start it."),
    "silent_worker": peer(
        "A process that may be a worker of this port does not answer.", "End it, then start again."
    ),
    "stopping": nobody("The process, or the service, is about to end."),
    "successor_died": peer("The new process died, and the old one serves on."),
    "successor_failed": peer(
        "The new process failed to take most of the connections; the old one serves on.",
        "Mend the cause that the message names, then begin again.",
    ),
    "supervised": caller(
        "A supervisor has the service already.",
        "Use `quicbaton reload` or `quicbaton stop`.",
    ),
    "two_services": caller(
        "The workers at this port do not have the same sockets.", "Stop them all first."
    ),
    "workers": caller(
        "A service has at least one worker, and at most as many as there are numbers for them."
    ),
}

_CLUSTERS: Final[Explanations] = {
    "address": caller("The text is no HOST:PORT."),
    "certificates": caller(
        "A node's certificate, its key or the cluster's authority is missing or invalid.",
        "Make new ones with `quicbaton keys renew`, and copy them to the host.",
    ),
    "cluster_file": caller(
        "The cluster's file cannot be read, or is incomplete.",
        "Make one with `quicbaton keys init`.",
    ),
    "local_name": caller("The name is one of this host, and means nothing on the other."),
    "no_cluster": caller(
        "A process of a cluster is named, and this one is in none.",
        "Start it with `--cluster`.",
        final=True,
    ),
    "node": caller("A node's name or address is invalid, or exists already."),
    "not_a_node": peer("The other side's certificate names no node, or several."),
    "peers_address": caller("The process cannot listen for other nodes at that address."),
    "tls": peer(
        "The TLS handshake between two nodes failed.",
        "Check that both have certificates of one cluster: `quicbaton keys show`.",
    ),
    "unknown_node": caller("The cluster has no such node.", final=True),
    "wrong_node": peer("Another node answers at the address, as its certificate says."),
}

_STORES: Final[Explanations] = {
    "store_busy": nobody("Too many operations wait for the ownership store."),
    "store_closed": nobody("The ownership store was closed, since the process ends."),
    "store_corrupt": nobody(
        "The ownership store's file is damaged.", "Give all nodes a new one, when all have stopped."
    ),
    "store_error": nobody("The ownership store failed; the message says how."),
    "store_full": nobody("The ownership store is full.", "Sweep it, or give it more room."),
    "store_io": nobody("The disk of the ownership store failed."),
    "store_locked": nobody("Other processes kept the ownership store locked for too long."),
    "store_readonly": caller("The ownership store's file cannot be written."),
    "store_slow": nobody("The ownership store did not answer in time."),
    "store_unusable": caller("The file cannot be used as an ownership store."),
    "store_url": caller("The text names no ownership store.", "Write `sqlite:PATH`."),
    "store_version": caller(
        "The ownership store has the tables of another release.",
        "Use a new file with all nodes.",
    ),
}

OF_PROCESSES: Final[Explanations] = {
    **_LINKS,
    **_COMMANDS,
    **_SERVICES,
    **_CLUSTERS,
    **_STORES,
}
