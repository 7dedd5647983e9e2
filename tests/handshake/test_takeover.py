"""A promoted connection goes on with a real peer, which notices nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from aioquic.h3.connection import H3Connection as AioquicH3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived
from aioquic.tls import CipherSuite, SessionTicket

from quicbaton.handshake import Promotion, ready
from quicbaton.http3 import H3Connection
from quicbaton.transport.connection import Connection
from tests.handshake.aioquic_pair import CLIENT_ADDRESS, ONE_WAY_S, SERVER_ADDRESS, V1, V2, Pair

GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.test"),
    (b":path", b"/"),
]
BODY = bytes(range(256)) * 400


class Issuer:
    def __init__(self, first: int) -> None:
        self._numbers = itertools.count(first)

    def issue(self) -> tuple[bytes, bytes]:
        number = next(self._numbers)
        return number.to_bytes(8, "big"), number.to_bytes(16, "big")


class Entropy:
    """A fixed sequence that never repeats a value of eight bytes."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(8, "big")[-size:].rjust(size, b"\x01")


def take_over(promotion: Promotion, on_crypto: Callable[[bytes], None] | None = None) -> Connection:
    return Connection(
        promotion.state,
        origin_s=promotion.origin_s,
        issuer=Issuer(1 << 40),
        entropy=Entropy(),
        on_crypto=on_crypto,
    )


class Talk:
    """aioquic at one end and a promoted connection at the other."""

    def __init__(
        self, pair: Pair, quic: QuicConnection, ours: Connection, lost: set[int] | None = None
    ) -> None:
        self.pair = pair
        self.quic = quic
        self.ours = ours
        self.addresses = (
            (CLIENT_ADDRESS, SERVER_ADDRESS)
            if quic.configuration.is_client
            else (SERVER_ADDRESS, CLIENT_ADDRESS)
        )
        self.lost = lost or set()
        self.count = 0

    def exchange(self, done: Callable[[], bool]) -> None:
        """Exchange datagrams, and fire timers when there are none, until `done`."""
        theirs, here = self.addresses
        for _ in range(3000):
            if done():
                return
            quiet = True
            for data, _ in self.quic.datagrams_to_send(self.pair.now):
                quiet = False
                if self._arrives():
                    self.pair.advance(ONE_WAY_S / 10)
                    self.ours.receive_datagram(data, theirs, self.pair.now, local=here)
            for data, _ in self.ours.datagrams_to_send(self.pair.now):
                quiet = False
                if self._arrives():
                    self.pair.advance(ONE_WAY_S / 10)
                    self.quic.receive_datagram(data, here, self.pair.now)
            if quiet:
                self._fire_timers()
        raise AssertionError("the exchange got stuck")

    def _arrives(self) -> bool:
        self.count += 1
        return self.count - 1 not in self.lost

    def _fire_timers(self) -> None:
        timers = [t for t in (self.quic.get_timer(), self.ours.get_timer()) if t is not None]
        self.pair.now = max(self.pair.now, min(timers))
        self.quic.handle_timer(self.pair.now)
        self.ours.handle_timer(self.pair.now)


def serve(connection: Connection, h3: H3Connection) -> None:
    """Answer every request with BODY."""
    while (event := connection.next_event()) is not None:
        for http_event in h3.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                h3.send_headers(http_event.stream_id, [(b":status", b"200")])
                h3.send_data(http_event.stream_id, BODY, end_stream=True)


def downloaded(quic: QuicConnection, h3: AioquicH3Connection, seen: list[H3Event]) -> bool:
    while (event := quic.next_event()) is not None:
        seen += h3.handle_event(event)
    return any(isinstance(event, DataReceived) and event.stream_ended for event in seen)


def body_of(seen: list[H3Event]) -> bytes:
    return b"".join(event.data for event in seen if isinstance(event, DataReceived))


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize(
    "cipher", [CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256]
)
@pytest.mark.parametrize("lost", [set(), {0}, {1}, {2, 3}, {5, 9, 13}, set(range(4, 60, 3))])
def test_promoted_server_serves_aioquics_client(
    version: int, cipher: CipherSuite, lost: set[int]
) -> None:
    pair = Pair(version=version, cipher=cipher, tickets={})
    pair.until_server_ready()
    ours = take_over(pair.promote_server())
    server_h3 = H3Connection(ours)
    client_h3 = AioquicH3Connection(pair.client)
    client_h3.send_headers(0, GET, end_stream=True)
    seen: list[H3Event] = []

    def done() -> bool:
        serve(ours, server_h3)
        return downloaded(pair.client, client_h3, seen)

    talk = Talk(pair, pair.client, ours, lost)
    talk.exchange(done)
    assert body_of(seen) == BODY
    assert pair.client._handshake_confirmed
    talk.exchange(lambda: ours.stream_is_finished(0))
    talk.exchange(lambda: bool(pair.client_tickets) and not pair.client._streams.get(0))
    assert pair.client._close_event is None


@pytest.mark.parametrize("lost", [set(), {0}, {1}, {0, 2}, {3, 4, 5}])
def test_promoted_client_is_served_by_aioquic(lost: set[int]) -> None:
    pair = Pair(tickets={})
    client_h3 = H3Connection(pair.client)  # its settings go out with aioquic
    pair.until_client_ready()
    promotion = pair.promote_client()
    tickets: list[SessionTicket] = []
    tls = promotion.tls
    assert tls is not None
    ours = take_over(promotion, lambda data: tickets.extend(tls.receive(data)))
    client_h3._quic = ours  # type: ignore[assignment]
    server_h3 = AioquicH3Connection(pair.server)
    client_h3.send_headers(0, GET, end_stream=True)
    seen: list[H3Event] = []

    def done() -> bool:
        serve(pair.server, server_h3)  # type: ignore[arg-type]
        return downloaded(ours, client_h3, seen)  # type: ignore[arg-type]

    Talk(pair, pair.server, ours, lost).exchange(done)
    assert body_of(seen) == BODY
    assert len(tickets) + len(pair.client_tickets) == 1


def test_early_request_is_answered_after_promotion() -> None:
    store: dict[bytes, SessionTicket] = {}
    first = Pair(tickets=store)
    first.until_client_ready()
    first.to_client(first.from_server())
    (ticket,) = first.client_tickets

    pair = Pair(tickets=store, client={"session_ticket": ticket})
    pair.connect()
    client_h3 = AioquicH3Connection(pair.client)
    client_h3.send_headers(0, GET, end_stream=True)
    pair.until(lambda: pair.server._handshake_confirmed)
    promotion = pair.promote_server()
    assert promotion.state.early_data_accepted
    ours = take_over(promotion)
    server_h3 = H3Connection(ours)
    seen: list[H3Event] = []

    def done() -> bool:
        serve(ours, server_h3)
        return downloaded(pair.client, client_h3, seen)

    Talk(pair, pair.client, ours).exchange(done)
    assert body_of(seen) == BODY


def test_client_with_an_empty_id_is_served() -> None:
    pair = Pair(client={"connection_id_length": 0})
    pair.until_server_ready()
    ours = take_over(pair.promote_server())
    server_h3 = H3Connection(ours)
    client_h3 = AioquicH3Connection(pair.client)
    client_h3.send_headers(0, GET, end_stream=True)
    seen: list[H3Event] = []

    def done() -> bool:
        serve(ours, server_h3)
        return downloaded(pair.client, client_h3, seen)

    Talk(pair, pair.client, ours).exchange(done)
    assert body_of(seen) == BODY


def round_trips_to_the_first_byte(mode: str, promoted: bool) -> float:
    """By a virtual clock; what one side has to send arrives at once, `ONE_WAY_S` later."""
    store: dict[bytes, SessionTicket] = {}
    first = Pair(tickets=store)
    first.until_client_ready()
    first.to_client(first.from_server())
    (ticket,) = first.client_tickets
    if mode == "resumption":
        ticket.max_early_data_size = None
    pair = Pair(tickets=store, client={} if mode == "full" else {"session_ticket": ticket})
    pair.connect()
    begin = pair.now
    asked = mode == "0-RTT"
    if asked:
        pair.client.send_stream_data(0, b"ask", end_stream=True)
    ours: Connection | None = None
    while True:
        flight = pair.from_client()
        pair.advance(ONE_WAY_S)
        for data in flight:
            if ours is not None:
                ours.receive_datagram(data, CLIENT_ADDRESS, pair.now)
                continue
            pair.server.receive_datagram(data, CLIENT_ADDRESS, pair.now)
            if promoted and ready(pair.server):
                ours = take_over(pair.promote_server())
        server = ours or pair.server
        while (ours or not promoted) and (event := server.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                server.send_stream_data(0, b"answer", end_stream=True)
        flight = [data for data, _ in server.datagrams_to_send(pair.now)]
        pair.advance(ONE_WAY_S)
        for data in flight:
            pair.client.receive_datagram(data, SERVER_ADDRESS, pair.now)
        while (event := pair.client.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                return (pair.now - begin) / (2 * ONE_WAY_S)
            if isinstance(event, HandshakeCompleted) and not asked:
                asked = True
                pair.client.send_stream_data(0, b"ask", end_stream=True)


@pytest.mark.parametrize(
    ("mode", "aioquics", "promoted"), [("full", 2, 2), ("resumption", 2, 2), ("0-RTT", 1, 2)]
)
def test_round_trips_to_the_first_byte(mode: str, aioquics: int, promoted: int) -> None:
    """The table of docs/decisions/0001-early-data.md."""
    assert round_trips_to_the_first_byte(mode, promoted=False) == pytest.approx(aioquics)
    assert round_trips_to_the_first_byte(mode, promoted=True) == pytest.approx(promoted)
