"""Why a connection moved or did not: handoffs, ownership, batons, sleep, relayed streams."""

from __future__ import annotations

from typing import Final

from quicbaton.reasons.explanation import Explanations, caller, done, fenced, nobody, ours, peer

_HANDOFFS: Final[Explanations] = {
    "ok": done("The command was carried out."),
    "proxied": done("The connection moved, and its old process sends for it as long as it lives."),
    "saved": done("The connection is frozen, and its baton is in the file."),
    "cannot_send_from": nobody(
        "The destination cannot send from the address that the client talks to.",
        "Name a process on that address and port, or add `--proxy`.",
        final=True,
    ),
    "closed": nobody("The connection is closed, or about to be: there is nothing to move."),
    "cut": nobody(
        "Connections that could not move, or requests that still ran, were ended at the deadline.",
        "Give them more time: `--grace SECONDS`; without it requests run on in the old worker.",
    ),
    "cutover_pending": nobody(
        "The client has not retired the connection IDs of the last handoff yet.",
        "Try again: clients take some ten milliseconds.",
    ),
    "deadline": peer(
        "The other process did not answer in time.",
        "See whether it is stopped or overloaded; `quicbaton workers` shows a service's.",
    ),
    "discarded": peer("The destination discarded the connection before it was given away."),
    "export_failed": caller(
        "The program failed to export its state, so the connection stays.",
        "Mend `export_state`; the message names the exception.",
    ),
    "forwards_full": nobody(
        "The source already forwards datagrams of as many connections as it may.",
        "Hand over more slowly.",
    ),
    "id_lengths": caller(
        "Connection IDs have another length than all the others.",
        "Give all processes, and all forms of one process, `--ids` of one length.",
        final=True,
    ),
    "import_failed": peer(
        "The destination's program failed to import the state of the source's.",
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
        "The connection has state that the baton format of the older destination cannot express.",
        "Wait until its requests have ended, or update the destination.",
    ),
    "no_room": nobody(
        "The connection buffers more than the destination takes.",
        "Wait until it has sent or delivered some of its bytes.",
    ),
    "no_store": caller(
        "Only one of the two processes uses the shared ownership store.",
        "Start both with the same `--store`.",
        final=True,
    ),
    "not_exportable": nobody(
        "The program cannot export its state, or not while a request runs.",
        "Wait until its requests have ended, or write `export_state`.",
    ),
    "not_kept": peer(
        "The command did not confirm in time that it had stored the baton, so the connection goes "
        "on.",
        "Save it again.",
    ),
    "not_owned": nobody("The process does not own the connection, or has frozen it."),
    "not_ready": nobody(
        "The handshake is not over, or the worker does not serve yet.",
        "Wait; if a worker ended, its output says why.",
    ),
    "other_host": caller(
        "The command works between processes of one host only.",
        "Run it on the host itself.",
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
        "The process already routes as many connection IDs as it may.",
        "Choose another destination, or try again.",
    ),
    "same_process": caller(
        "The destination is the very process that has the connection.",
        "Name another one.",
        final=True,
    ),
    "source_gone": peer(
        "The process that froze the connection cannot be reached, and only it can give it away.",
        "If it has ended, so has the connection; if not, try again before the baton expires.",
    ),
    "takeover": nobody(
        "A new process takes over from this one, and with it the connections that were saved.",
        "Save the connection again, from the new process.",
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
    "fenced": fenced("The connection, the term or the baton belongs to another process now."),
    "given_away": fenced(
        "The connection was given away, or put to sleep, and its object is spent.",
        "Use the connection that was rebuilt.",
    ),
    "holder": caller("A name or an incarnation does not fit into the ownership store."),
    "in_doubt": fenced(
        "The ownership store did not tell in time which process owns the connection.",
        "Check the store; the process is silent about this connection for good.",
    ),
    "not_forwarding": nobody("The process forwards nothing for the connection any more."),
    "second_sender": fenced(
        "The client acknowledged a packet that this process never sent: another one has the keys.",
        "Find the second process; this one is silent about the connection for good.",
    ),
    "shared_store": nobody("The shared store decides about this connection, not its source."),
    "superseded": fenced(
        "The source serves the connection again, or froze it anew: this baton is void.",
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
        "The baton is past its expiry, or was issued in the future.",
        "Resume a baton within two minutes; check that the hosts' clocks agree.",
    ),
    "baton_field": caller("A value does not fit into a baton's header."),
    "baton_malformed": peer("The file or message is no baton, or is cut off."),
    "baton_precopy": peer(
        "The baton leaves out bytes that should have come ahead of it.", "Hand over again."
    ),
    "baton_seal": peer(
        "The baton was changed, or sealed under a key that this process does not have.",
        "Check that both processes have the same key: `quicbaton keys show`.",
    ),
    "baton_too_large": nobody(
        "The connection buffers more than a baton may carry.",
        "Wait until it has sent or delivered some of its bytes.",
    ),
    "format_unknown": peer(
        "The destination, or this release, cannot read the baton's format.",
        "Update the older side.",
        final=True,
    ),
    "unknown_delivery_handler": ours(
        "A packet in flight has contents that no known release of aioquic sends.",
        "Install a release of aioquic that this one supports.",
    ),
    "unknown_event": ours("An event of aioquic cannot be carried over to our transport."),
    "too_many_key_updates": peer("The client updated its keys again and again in the handshake."),
    "unsupported_cipher": peer("The transport does not have this cipher suite.", final=True),
    "unsupported_version": peer("The transport does not have this version of QUIC.", final=True),
}

_SLEEP: Final[Explanations] = {
    "ack_owed": nobody("An acknowledgement is due."),
    "buffered_bytes": nobody("A stream has undelivered or unacknowledged bytes."),
    "in_flight": nobody("Packets are not acknowledged yet."),
    "needed": nobody("A handoff of the connection is under way, or another process sends for it."),
    "path_validation": nobody("A path is being validated."),
    "timer": nobody("The next deadline comes too soon."),
    "undelivered_events": nobody("The program has not taken all events."),
    "unsent": nobody("Frames are waiting to be sent."),
}

_STREAM_RELAY: Final[Explanations] = {
    "lost": peer("The connection is lost, and with it the streams that were relayed for it."),
    "relay_credit": peer("The other process grants credit for bytes that were never sent to it."),
    "relay_ended": peer("The other process sends on a relayed stream after its end."),
    "relay_streams": peer("A baton names more relayed streams than one connection may have."),
    "relay_window": peer("The other process sends more of a relayed stream than its window."),
    "streams_relayed": nobody(
        "Streams of the connection are relayed from an earlier process, or are about to be.",
        "Try again when their requests have ended.",
    ),
}

OF_CONNECTIONS: Final[Explanations] = {
    **_HANDOFFS,
    **_OWNERSHIP,
    **_BATONS,
    **_SLEEP,
    **_STREAM_RELAY,
}
