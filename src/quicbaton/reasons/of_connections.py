"""Why a connection moved or did not: handoffs, ownership, batons, sleep, relayed streams."""

from __future__ import annotations

from typing import Final

from quicbaton.reasons.explanation import Explanations, caller, done, fenced, nobody, ours, peer

_HANDOFFS: Final[Explanations] = {
    "ok": done("It was done."),
    "proxied": done("The connection moved, and its old process sends for it as long as it lives."),
    "saved": done("The connection is frozen, and its baton is in the file."),
    "cannot_send_from": nobody(
        "The destination cannot send from the address that the client talks to.",
        "Name a process on that address and port, or add `--proxy`.",
        final=True,
    ),
    "closed": nobody("The connection is closed, or about to be: there is nothing to move."),
    "cut": nobody(
        "What could not move, or still ran, was ended at the deadline.",
        "Give it more time: `--grace SECONDS`, or let it run on in the old worker without one.",
    ),
    "cutover_pending": nobody(
        "The client has not retired the connection IDs of the last handoff yet.",
        "Try again: clients take some ten milliseconds.",
    ),
    "deadline": peer(
        "The other process did not answer in time.",
        "See whether it is stopped or overloaded; `quicbaton workers` shows a service's.",
    ),
    "discarded": peer("The destination let the connection go before it was given away."),
    "export_failed": caller(
        "The program failed to say its state, so the connection stays.",
        "Mend `export_state`; the message names the exception.",
    ),
    "forwards_full": nobody(
        "The source forwards datagrams of as many connections as it may.",
        "Hand over more slowly.",
    ),
    "id_lengths": caller(
        "Connection IDs have another length than all the others.",
        "Give all processes, and all forms of one process, `--ids` of one length.",
        final=True,
    ),
    "import_failed": peer(
        "The destination's program failed to take in the state that the source's had said.",
        "Mend `import_state`; the message names the exception.",
    ),
    "in_hand": nobody(
        "The destination has not settled an earlier handoff of this connection.", "Try again."
    ),
    "memory_full": nobody(
        "The destination has too little memory for one more connection.",
        "Name another one, or give it more: `serve --memory MB`.",
    ),
    "needs_newer_format": nobody(
        "The connection has what the baton format of the older destination cannot say.",
        "Wait until its requests have ended, or update the destination.",
    ),
    "no_room": nobody(
        "The connection buffers more than the destination takes.",
        "Wait until it has sent or delivered some of that.",
    ),
    "no_store": caller(
        "Only one of the two processes uses the shared ownership store.",
        "Start both with the same `--store`.",
        final=True,
    ),
    "not_exportable": nobody(
        "The program does not say its state, or not while a request runs.",
        "Wait until its requests have ended, or write `export_state`.",
    ),
    "not_kept": peer(
        "The command did not say in time that it had the baton, so the connection goes on.",
        "Save it again.",
    ),
    "not_owned": nobody("The process does not own the connection now, or has frozen it."),
    "not_ready": nobody(
        "The handshake is not over, or the worker does not serve yet.",
        "Wait; if a worker ended, its output says why.",
    ),
    "other_host": caller(
        "What was asked for works between processes of one host only.",
        "Ask on the host itself.",
        final=True,
    ),
    "over_tcp": caller("A TCP connection cannot move: it ends where it is.", final=True),
    "peer_dead": peer("The process at the other end of the handoff has exited."),
    "already_proxied": caller(
        "Another process sends for this connection, which can therefore not move on.",
        "Let it end here, or close it.",
        final=True,
    ),
    "routing_table_full": nobody(
        "The process knows as many connection IDs as it may.",
        "Choose another destination, or try again.",
    ),
    "same_process": caller(
        "The destination is the very process that has the connection.",
        "Name another one.",
        final=True,
    ),
    "source_gone": peer(
        "The process that froze the connection cannot be reached, and only it can give it away.",
        "If it has ended, the connection has, too; else try again before the baton expires.",
    ),
    "takeover": nobody(
        "A new process takes over this one, and with it the connections that were saved.",
        "Save it again, from the new process.",
    ),
}

_OWNERSHIP: Final[Explanations] = {
    "already_used": fenced(
        "Another process resumed this baton: a baton is good once.", "Discard it."
    ),
    "digest_mismatch": fenced(
        "The baton's state is not the one that was sealed for this claim.",
        "Discard it.",
    ),
    "fenced": fenced("The connection, the term or the baton belongs to somebody else now."),
    "given_away": fenced(
        "The connection was given away, or put to sleep, and its object is spent.",
        "Use the connection that was rebuilt.",
    ),
    "holder": caller("A name or an incarnation does not fit into the ownership store."),
    "in_doubt": fenced(
        "The ownership store did not say in time whose the connection is.",
        "See to the store; the process is silent about this connection for good.",
    ),
    "not_forwarding": nobody("The process forwards nothing for the connection any more."),
    "second_sender": fenced(
        "The client acknowledged what this process never sent: somebody else has the keys.",
        "Find the second process; this one is silent about the connection for good.",
    ),
    "shared_store": nobody("The shared store gives this connection away, not its source."),
    "superseded": fenced(
        "The source serves the connection again, or froze it anew: this baton fits nothing.",
        "Discard it, and save or hand over again.",
    ),
    "wrong_audience": fenced("The offer or the baton is meant for another process or handoff."),
    "wrong_baton": peer("The baton is not the one that was offered or asked for."),
    "wrong_connection": peer("A claim, a baton or a message is about another connection."),
    "wrong_handoff": peer("A message is about another handoff."),
    "wrong_term": peer("The destination took the connection in a term that the baton never gave."),
}

_BATONS: Final[Explanations] = {
    "baton": peer("The baton is not accepted."),
    "baton_expired": peer(
        "The baton is past its expiry, or from the future.",
        "Resume a baton within two minutes; see whether the hosts' clocks agree.",
    ),
    "baton_field": caller("A baton's header cannot say a value."),
    "baton_malformed": peer("The file or message is no baton, or is cut off."),
    "baton_precopy": peer(
        "The baton leaves out bytes that should have come ahead of it.", "Hand over again."
    ),
    "baton_seal": peer(
        "The baton was changed, or sealed under a key that is not here.",
        "See whether both processes have the same key: `quicbaton keys show`.",
    ),
    "baton_too_large": nobody(
        "The connection buffers more than a baton may carry.",
        "Wait until it has sent or delivered some of that.",
    ),
    "format_unknown": peer(
        "The destination, or this release, cannot read the baton's format.",
        "Update the older side.",
        final=True,
    ),
    "unknown_delivery_handler": ours(
        "A packet in flight is one that this release knows from no release of aioquic.",
        "Install a release of aioquic that this one names.",
    ),
    "unknown_event": ours("An event of aioquic cannot be carried over to our transport."),
    "too_many_key_updates": peer("The client updated its keys again and again in the handshake."),
    "unsupported_cipher": peer("The cipher suite is none that the transport has.", final=True),
    "unsupported_version": peer("The QUIC version is none that the transport has.", final=True),
}

_SLEEP: Final[Explanations] = {
    "ack_owed": nobody("An acknowledgement is due."),
    "buffered_bytes": nobody("A stream has bytes that were not delivered or not acknowledged."),
    "in_flight": nobody("Packets are not acknowledged yet."),
    "needed": nobody("A handoff of the connection is under way, or another process sends for it."),
    "path_validation": nobody("A path is being validated."),
    "timer": nobody("The next deadline comes too soon."),
    "undelivered_events": nobody("The program has not taken all events."),
    "unsent": nobody("Something is to be sent."),
}

_STREAM_RELAY: Final[Explanations] = {
    "lost": peer("The connection is lost, and with it the streams that were relayed for it."),
    "relay_credit": peer("The other process grants credit for bytes that were never sent to it."),
    "relay_ended": peer("The other process goes on with a relayed stream after its end."),
    "relay_streams": peer("A baton names more relayed streams than one connection may have."),
    "relay_window": peer("The other process sends more of a relayed stream than its window."),
    "streams_relayed": nobody(
        "Streams of the connection are relayed from an earlier process, or about to be.",
        "Try again when those requests have ended.",
    ),
}

OF_CONNECTIONS: Final[Explanations] = {
    **_HANDOFFS,
    **_OWNERSHIP,
    **_BATONS,
    **_SLEEP,
    **_STREAM_RELAY,
}
