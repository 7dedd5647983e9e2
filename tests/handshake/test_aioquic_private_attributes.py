"""A release of aioquic that adds, drops or renames state must fail here, loudly."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicTransportParameters
from aioquic.tls import Context

from quicbaton.handshake import EcnCounts, SessionTickets, prepare, ready, surface
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.handshake.aioquic_pair import SERVER_CID, TOKEN, Pair

REVIEW = (
    "aioquic {version} differs from {known} in {name}: new {new}, gone {gone}. Review what these "
    "attributes hold before you change the set in surface.py: whatever is state of a connection "
    "must be carried by handshake.promote (or http3.export_state), and whatever comes from "
    "os.urandom must be replaced by handshake.prepare."
)


def parts_of(quic: QuicConnection) -> Iterator[Any]:
    """Every object that promotion reads."""
    yield quic
    yield quic._loss
    yield from (quic._local_max_data, quic._peer_cid, *quic._network_paths, *quic._host_cids)
    for space in quic._loss.spaces:
        yield space
        yield space.received_packets
        yield from space.sent_packets.values()
    for pair in quic._cryptos.values():
        yield from (pair, pair.send, pair.recv)
    for stream in (*quic._streams.values(), *quic._crypto_streams.values()):
        yield from (stream, stream.sender, stream.receiver, stream.sender._pending)
    if hasattr(quic, "tls"):
        yield quic.tls


@pytest.fixture(scope="module")
def attributes() -> dict[str, set[str]]:
    """Class name to all attributes seen, over the life of a client and a server."""
    seen: dict[str, set[str]] = {}

    def note(*objects: Any) -> None:
        for each in objects:
            seen.setdefault(type(each).__name__, set()).update(vars(each))

    pair = Pair(tickets={}, prepared=False)

    def look() -> None:
        note(*parts_of(pair.client), *parts_of(pair.server))

    def look_until_confirmed() -> bool:
        look()
        return ready(pair.client)

    look()
    pair.connect()
    pair.until(look_until_confirmed)
    pair.client.send_stream_data(0, b"a request")
    for _ in range(3):
        pair.to_server(pair.from_client())
        look()
        pair.to_client(pair.from_server())
        look()
    note(QuicTransportParameters())
    pair.client.close()
    pair.to_server(pair.from_client())
    look()
    return seen


@pytest.mark.parametrize(
    ("name", "known"),
    surface.ATTRIBUTES.items(),
)
def test_aioquic_has_exactly_the_attributes_that_we_know(
    name: str, known: frozenset[str], attributes: dict[str, set[str]]
) -> None:
    found = attributes[name]
    assert found == known, REVIEW.format(
        version=version("aioquic"),
        known=surface.AIOQUIC_VERSION,
        name=name,
        new=sorted(found - known),
        gone=sorted(known - found),
    )


def test_aioquic_has_the_private_methods_that_we_stand_in_front_of() -> None:
    for kind in (QuicConnection, Context):
        for name in surface.METHODS[kind.__name__]:
            assert callable(getattr(kind, name))


def test_preparing_shadows_two_methods_that_aioquic_has_and_counting_marks_a_third() -> None:
    pair = Pair()
    shadowed = vars(pair.server).keys() - surface.ATTRIBUTES["QuicConnection"]
    # One more is shadowed only while the first keys are derived.
    for_keys = {"_serialize_transport_parameters"}
    assert shadowed == surface.METHODS["QuicConnection"] - {"_write_ack_frame"} - for_keys
    EcnCounts(pair.server)
    shadowed = vars(pair.server).keys() - surface.ATTRIBUTES["QuicConnection"]
    assert shadowed == surface.METHODS["QuicConnection"] - for_keys
    assert pair.server.host_cid == SERVER_CID


def test_tickets_stand_in_front_of_one_method_of_tls_more() -> None:
    pair = Pair(prepared=False)
    tickets = SessionTickets(KeyRing(ClusterKey(b"key1", bytes(32))), bytes, lambda: 0.0)
    prepare(pair.server, SERVER_CID, TOKEN, tickets=tickets)
    pair.connect()
    pair.to_server(pair.from_client())
    shadowed = vars(pair.server.tls).keys() - surface.ATTRIBUTES["Context"]
    assert shadowed == {"_server_handle_hello", "handle_message", "_server_handle_finished"}
    assert shadowed < surface.METHODS["Context"]
