"""Sleep changes nothing: not a packet, not a moment, not a byte. Nor does a doze, in which the
protocol and HTTP/3 stay, and the transport is bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import ProtocolNegotiated
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import CallerError, GivenAwayError, RefusedError
from quicbaton.http3 import H3Connection
from quicbaton.testing import Conditions, EndOptions, Pair, move, sleep
from tests.moves.dozing import doze
from tests.moves.test_properties import Run, actions, conditions, options, profile
from tests.moves.traffic import alive, arrived, log, traffic, traffic_pair


def refusal(end: Any) -> str:
    with pytest.raises(RefusedError) as refused:
        sleep(end)
    assert not end.asleep
    return refused.value.code


def quiet(pair: Pair) -> None:
    """Let everything that is under way come to its end."""
    pair.run(seconds=3)


each_rest = pytest.mark.parametrize("put_to_rest", [sleep, doze])


# --- that nothing changes -----------------------------------------------------------------------


def packets_of(
    play: Callable[[Pair, Callable[[], None]], None], put_to_rest: Callable[[Any], None] | None
) -> list[Any]:
    pair = traffic_pair(conditions=Conditions(delay_s=0.02, loss=0.03), seed=11)
    seen: list[Any] = []
    pair.nonces.on_packet = lambda packet: seen.append(
        (pair.now, packet.direction, packet.generation, packet.number, len(packet.payload))
    )
    slept = 0

    def rest() -> None:
        nonlocal slept
        for end in (pair.client, pair.server) if put_to_rest is not None else ():
            if not end.asleep:
                with contextlib.suppress(RefusedError):
                    put_to_rest(end)
                    slept += 1

    play(pair, rest)
    assert alive(pair)
    assert slept > 10 or put_to_rest is None
    return seen


def a_long_talk(pair: Pair, rest: Callable[[], None]) -> None:
    for size in (10, 30_000, 0, 5000, 1, 200):
        traffic(pair.client).open(size)
        traffic(pair.server).open(size // 2)
        if size == 5000:
            pair.client.connection.request_key_update()
        stop = pair.now + 5
        while pair.now < stop:
            rest()
            pair.transmit()
            following = pair.next_at_s()
            if following is None or following > stop:
                pair.run(seconds=stop - pair.now)
                break
            pair.step()


@each_rest
def test_every_packet_is_the_same_and_leaves_at_the_same_time(put_to_rest: Any) -> None:
    awake = packets_of(a_long_talk, None)
    assert packets_of(a_long_talk, put_to_rest) == awake
    assert len(awake) > 60


@each_rest
@settings(profile, max_examples=60)
@given(conditions, conditions, st.integers(0, 1 << 16), actions, st.booleans())
def test_under_any_weather_ends_that_sleep_whenever_they_can_say_and_hear_the_same(
    put_to_rest: Any,
    there: Conditions,
    back: Conditions,
    seed: int,
    plan: Any,
    client_is_ours: bool,
) -> None:
    pair = Pair(
        there,
        towards_client=back,
        client=options("quicbaton" if client_is_ours else "aioquic", tight=False),
        server=options("quicbaton", tight=False),
        seed=seed,
    )
    pair.connect()
    run = Run(pair)
    for what, side, number, events in plan:
        run.act(what, side, number)
        # After some actions there is time to come to rest.
        until = pair.now + (number % 3) * 1.5
        for _ in range(events if number % 3 == 0 else 2000):
            pair.transmit()
            following = pair.next_at_s()
            if following is None or following > max(until, pair.now + 0.5) or not alive(pair):
                break
            pair.step()
            for end in (pair.client, pair.server):
                if end.kind == "quicbaton" and end.is_up and not end.asleep:
                    with contextlib.suppress(RefusedError):
                        put_to_rest(end)
    run.finish()


def test_http3_and_its_program_wake_where_they_were() -> None:
    class Server:
        def __init__(self, connection: Any) -> None:
            self._http: H3Connection | None = None
            self.connection = connection
            self.received = 0

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, ProtocolNegotiated):
                self._http = H3Connection(self.connection)
            if self._http is None:
                return
            for http_event in self._http.handle_event(event):
                if isinstance(http_event, DataReceived):
                    self.received += len(http_event.data)
                    if http_event.stream_ended:
                        self._http.send_headers(http_event.stream_id, [(b":status", b"200")])
                        text = b"%d bytes" % self.received
                        self._http.send_data(http_event.stream_id, text, end_stream=True)

        def export_state(self) -> bytes:
            return b"%d" % self.received

        def import_state(self, data: bytes) -> None:
            self.received = int(data)

    pair = Pair(client="aioquic", server=EndOptions("quicbaton", create=Server))
    pair.connect()
    quiet(pair)
    sleep(pair.server)
    client = pair.client.connection
    # aioquic's own HTTP/3, which would use a QPACK table if it were offered one.
    from aioquic.h3.connection import H3Connection as AioquicH3Connection  # noqa: PLC0415

    http = AioquicH3Connection(client)
    for count in (1, 2):
        stream_id = client.get_next_available_stream_id()
        headers = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/")]
        http.send_headers(stream_id, [*headers, (b":authority", b"x"), (b"cookie", b"c" * 99)])
        http.send_data(stream_id, b"first half, ", end_stream=False)
        quiet(pair)
        # In the middle of a request, with half of its body parsed.
        sleep(pair.server)
        http.send_data(stream_id, b"second half", end_stream=True)
        quiet(pair)
        events = [
            http_event
            for event in pair.client.take_events()
            for http_event in http.handle_event(event)
        ]
        assert any(isinstance(event, HeadersReceived) for event in events)
        assert events[-1].data == b"%d bytes" % (23 * count)
        sleep(pair.server)


# --- when ---------------------------------------------------------------------------------------


def test_a_connection_with_something_to_do_stays_awake_and_says_why() -> None:
    pair = Pair(client="quicbaton", server="quicbaton")
    assert refusal(pair.client) == "not_ready"
    pair.connect()
    quiet(pair)
    pair.server.take_events()
    pair.client.take_events()
    sleep(pair.server)
    server, client = pair.server.connection, pair.client.connection
    assert not pair.server.asleep, "asking for its connection wakes it"

    server.send_ping(1)
    assert refusal(pair.server) == "unsent"
    pair.transmit()
    assert refusal(pair.server) == "in_flight"
    quiet(pair)
    assert refusal(pair.server) == "undelivered_events"
    pair.server.take_events()

    client.send_stream_data(0, b"a request")
    pair.run(seconds=0.02)
    assert refusal(pair.server) in ("undelivered_events", "ack_owed")
    pair.server.take_events()
    quiet(pair)
    server.send_stream_data(0, b"an answer")
    assert refusal(pair.server) == "unsent"
    quiet(pair)
    pair.client.take_events()
    server.begin_cutover()
    pair.server.take_events()
    assert refusal(pair.server) == "unsent"
    quiet(pair)
    pair.server.take_events()
    server.set_keep_alive(0.5)
    assert refusal(pair.server) == "timer"
    server.set_keep_alive(0)
    sleep(pair.server)
    pair.server.connection.close()
    assert refusal(pair.server) == "closed"


def test_bytes_that_the_peer_gives_no_room_for_keep_a_connection_awake() -> None:
    tight = EndOptions("quicbaton", configuration={"max_data": 30_000, "max_stream_data": 2000})
    pair = Pair(client=tight, server="quicbaton")
    pair.connect()
    quiet(pair)
    pair.client.connection.send_stream_data(0, b"ask")
    quiet(pair)
    pair.server.take_events()
    pair.server.connection.send_stream_data(0, bytes(50_000))
    quiet(pair)
    # The client takes nothing.
    assert refusal(pair.server) in ("buffered_bytes", "unsent")


def test_only_the_bytes_of_one_who_sleeps_can_go_on() -> None:
    pair = Pair(client="aioquic", server="quicbaton")
    with pytest.raises(CallerError):
        sleep(pair.client)
    pair.connect()
    quiet(pair)
    pair.server.take_events()
    old = pair.server.connection
    sleep(pair.server)
    with pytest.raises(CallerError):
        sleep(pair.server)
    with pytest.raises(GivenAwayError):
        old.send_ping(1)
    assert pair.server.get_timer() is not None


# --- together with the rest ---------------------------------------------------------------------


def test_a_client_s_new_address_is_validated_by_one_who_slept() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    quiet(pair)
    for _ in range(3):
        sleep(pair.server)
        address = pair.rebind()
        stream_id = traffic(pair.client).open(30_000)
        quiet(pair)
        assert arrived(pair.server, {stream_id: 30_000})
        assert pair.server.connection._state.paths[0].remote == address
        assert pair.server.connection._state.paths[0].validated
        # Whether the old address can still be reached is known only after a while.
        pair.run(seconds=5)


def test_the_peer_s_key_update_wakes_and_is_answered() -> None:
    pair = traffic_pair("aioquic", "quicbaton")
    quiet(pair)
    for generation in (1, 2, 3):
        sleep(pair.server)
        pair.client.connection.request_key_update()
        traffic(pair.client).open(100)
        quiet(pair)
        assert generation in pair.nonces.generations("server")


def test_silence_ends_a_sleeper_when_it_would_have_ended_it_awake() -> None:
    ended: list[float] = []
    for sleeping in (False, True):
        pair = traffic_pair("quicbaton", "quicbaton", seed=4)
        quiet(pair)
        if sleeping:
            sleep(pair.server)
            sleep(pair.client)
        began = pair.now
        pair.run(lambda pair=pair: not alive(pair), seconds=200)
        ended.append(pair.now - began)
        assert log(pair.server).terminated[0][1] == "Idle timeout"
    assert ended[0] == ended[1]


def test_sleep_and_moves_alternate() -> None:
    pair = traffic_pair("aioquic", "quicbaton")
    for _ in range(5):
        quiet(pair)
        sleep(pair.server)
        move(pair.server, begin_cutover=True)
        stream_id = traffic(pair.client).open(4000)
        quiet(pair)
        assert arrived(pair.server, {stream_id: 4000})
        sleep(pair.server)
        stream_id = traffic(pair.client).open(4000)
        quiet(pair)
        assert arrived(pair.server, {stream_id: 4000})
