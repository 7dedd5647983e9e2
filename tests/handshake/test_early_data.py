"""0-RTT: accepted, and answered after promotion (docs/decisions/0001-early-data.md)."""

from __future__ import annotations

from typing import Any

from aioquic.quic.events import StreamDataReceived
from aioquic.tls import SessionTicket

from quicbaton.handshake import ready
from quicbaton.transport import frames as f
from quicbaton.transport.state import StreamDataEvent
from tests.handshake.aioquic_pair import Pair


def tickets() -> tuple[dict[bytes, SessionTicket], SessionTicket]:
    """The server's store and the client's ticket after a first connection."""
    store: dict[bytes, SessionTicket] = {}
    pair = Pair(tickets=store)
    pair.until_client_ready()
    pair.to_client(pair.from_server())
    (ticket,) = pair.client_tickets
    return store, ticket


def resuming(**options: Any) -> Pair:
    store, ticket = tickets()
    pair = Pair(tickets=store, client={"session_ticket": ticket}, **options)
    pair.connect()
    pair.client.send_stream_data(0, b"GET early", end_stream=True)
    return pair


def test_early_request_waits_for_promotion_and_is_replayed_to_the_application() -> None:
    pair = resuming()
    pair.to_server(pair.from_client())
    # Decrypted, but the client has proved nothing yet: the application is not told.
    assert pair.server.tls.early_data_accepted
    assert not ready(pair.server)
    pair.until(lambda: ready(pair.server))
    state = pair.promote_server().state
    assert state.early_data_accepted
    assert state.session_resumed
    assert StreamDataEvent(0, b"GET early", end_stream=True) in state.events
    assert state.numbers.received[0] < state.numbers.received[-1]


def test_replayed_first_flight_never_reaches_the_application() -> None:
    pair = resuming()
    captured = pair.from_client()
    victim = Pair(tickets=pair_store(pair))
    victim.to_server(captured)
    assert victim.server.tls.early_data_accepted
    waiting = [e for e in victim.server._events if isinstance(e, StreamDataReceived)]
    assert [event.data for event in waiting] == [b"GET early"]
    # Nobody answers the server's flight: its timers fire, and it is never ready.
    while (timer := victim.server.get_timer()) is not None:
        victim.from_server()
        victim.now = max(victim.now, timer)
        victim.server.handle_timer(victim.now)
    assert not ready(victim.server)


def pair_store(pair: Pair) -> dict[bytes, SessionTicket]:
    """The ticket store that the pair's server looks into."""
    fetch = pair.server._session_ticket_fetcher
    store: dict[bytes, SessionTicket] = fetch.__self__  # type: ignore[union-attr]
    return store


def test_acks_of_early_data_sent_before_promotion_do_not_count_as_in_flight() -> None:
    pair = resuming()
    pair.to_server(pair.from_client())
    pair.advance(0.002)
    flight = pair.from_server()
    sent = pair.server._loss.spaces[-1].sent_packets
    assert any(not packet.is_ack_eliciting for packet in sent.values())
    pair.to_client(flight)
    pair.until(lambda: ready(pair.server))
    state = pair.promote_server().state
    assert all(run.eliciting for run in state.recovery.sent)
    assert state.numbers.next_number > max(sent)


def test_client_promotes_with_its_early_data_in_flight_or_acknowledged() -> None:
    pair = resuming()
    pair.until(lambda: ready(pair.client))
    state = pair.promote_client().state
    assert state.early_data_accepted
    frames = [frame for run in state.recovery.sent for frame in run.frames]
    half = state.streams[0].send
    assert half is not None
    stream_frames = [frame for frame in frames if frame[0] == f.STREAM]
    assert half.fin_acked or half.lost or half.fin_due or stream_frames


def test_refused_early_data_is_sent_again_in_1rtt() -> None:
    store, ticket = tickets()
    store.clear()
    pair = Pair(tickets=store, client={"session_ticket": ticket})
    pair.connect()
    pair.client.send_stream_data(0, b"GET early", end_stream=True)
    pair.until(lambda: ready(pair.client))
    state = pair.promote_client().state
    assert not state.early_data_accepted
    half = state.streams[0].send
    assert half is not None
    # In flight until declared lost, whole in the buffer: it will go again.
    assert (half.base, b"".join(half.chunks)) == (0, b"GET early")
