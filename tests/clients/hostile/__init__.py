"""Attacks on a server, each a function with a bounded budget; see `docs/security.md`.

`python -m tests.clients.hostile PORT ATTACK` performs one and prints a line of JSON when it is
over. The tests of innocent neighbours and the benchmark `hostile` run it as a process of its own.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tests.clients.hostile import http3_attacks as h
from tests.clients.hostile import strangers as s
from tests.clients.hostile import transport_attacks as t
from tests.clients.hostile.raw import Budget, OverError, RawClient
from tests.clients.hostile.strangers import Stranger

#: By clients that have a connection.
CLIENTS: Final = {
    attack.__name__: attack
    for attack in (
        h.rapid_reset,
        h.stopped_requests,
        h.made_you_reset,
        h.request_flood,
        h.slow_requests,
        h.slow_reader,
        h.endless_headers,
        h.unfinished_headers,
        h.many_fields,
        h.qpack_bomb,
        h.huffman_bomb,
        h.dynamic_table,
        h.empty_frames,
        h.unknown_frames,
        h.priority_updates,
        h.push_limits,
        h.goaways,
        h.control_frames,
        t.gapped_stream,
        t.tiny_stream_frames,
        t.crypto_hoarding,
        t.path_challenges,
        t.new_connection_ids,
        t.retire_connection_ids,
        t.optimistic_acks,
        t.acks_of_the_future,
        t.ack_scans,
        t.pings,
        t.tiny_packets,
        t.credit_updates,
        t.blocked_frames,
        t.datagrams,
        t.key_updates,
        t.migrations,
    )
}
#: Attacks that need no connection.
STRANGERS: Final = {
    attack.__name__: attack
    for attack in (
        s.handshake_flood,
        s.endless_hello,
        s.spoofed_handshakes,
        s.broken_initials,
        s.forged_tokens,
        s.strange_versions,
        s.lost_packets,
    )
}
ATTACKS: Final = (*CLIENTS, *STRANGERS)


class Result(msgspec.Struct):
    """What an attack spent, and how the server ended its connection: see `RawClient.closed`.

    `largest_ratio`: of bytes answered to bytes sent, the largest of all spoofed addresses.
    """

    attack: str
    packets: int
    sent_bytes: int
    answered_bytes: int
    closed: str
    reason: str
    largest_ratio: float


def perform(attack: str, port: int, packets: int, seconds: float) -> Result:
    """Perform one attack on the loopback's `port`; returns when the server is done with it."""
    if attack in STRANGERS:
        stranger = Stranger(port, Budget(packets, seconds))
        try:
            STRANGERS[attack](stranger)
        except OverError:
            stranger.settle()
        finally:
            stranger.close()
        sent = (stranger.sent_packets, stranger.sent_bytes, stranger.answered_bytes)
        return Result(attack, *sent, "", "", round(stranger.largest_ratio, 2))
    client = RawClient(port, Budget(packets, seconds))
    try:
        CLIENTS[attack](client)
    except OverError:
        client.settle()
    finally:
        client.close()
    sent = (client.sent_packets, client.sent_bytes, client.received_bytes)
    return Result(attack, *sent, client.closed, client.reason, 0.0)
