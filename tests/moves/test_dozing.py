"""What a quiet connection lets go of, and how it goes on: see `test_sleeping`, too."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import msgspec
import pytest

from quicbaton.errors import GivenAwayError
from quicbaton.testing import Conditions, Pair, move
from quicbaton.testing.entropy import Entropy
from quicbaton.transport.connection import Connection
from quicbaton.transport.engine import Engine
from quicbaton.transport.state import ConnectionState
from tests.moves.dozing import doze, kinds_held
from tests.moves.traffic import arrived, traffic, traffic_pair

#: Made by OpenSSL, for packet and header protection.
CIPHERS = {"AESGCM", "ChaCha20Poly1305", "CipherContext", "KeyContext"}


def quiet(pair: Pair) -> None:
    """Let everything that is under way come to its end."""
    pair.run(seconds=3)


def test_a_quiet_connection_holds_no_ciphers_no_engine_and_no_objects_of_its_state() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    quiet(pair)
    for end in (pair.client, pair.server):
        assert kinds_held(end.connection) >= {"AESGCM", "CipherContext", "Engine", "Sender"}
        doze(end)
        kinds = kinds_held(end.connection)
        assert not kinds & CIPHERS
        assert not kinds & {"ConnectionState", "Engine", "Receiver", "Sender", "Streams"}
        end.connection.send_ping(1)
        assert "Engine" in kinds_held(end.connection)


def test_what_it_lets_go_of_needs_no_garbage_collector() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    quiet(pair)
    gc.collect()
    gc.disable()
    try:
        before = _engines()
        doze(pair.server)
        assert _engines() == before - 1
    finally:
        gc.enable()


def _engines() -> int:
    return sum(type(one) is Engine for one in gc.get_objects())


@pytest.mark.parametrize("client", ["aioquic", "quicbaton"])
def test_both_directions_go_on_byte_by_byte(client: Any) -> None:
    pair = traffic_pair(client, "quicbaton", conditions=Conditions(delay_s=0.01, loss=0.05))
    for _ in range(4):
        quiet(pair)
        doze(pair.server)
        up = traffic(pair.client).open(30_000)
        quiet(pair)
        assert arrived(pair.server, {up: 30_000})
        doze(pair.server)
        down = traffic(pair.server).open(30_000)
        quiet(pair)
        assert arrived(pair.client, {down: 30_000})


@pytest.mark.parametrize("ours", [True, False])
def test_key_updates_go_on_from_the_generation_before(ours: bool) -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    for generation in (1, 2, 3):
        quiet(pair)
        doze(pair.server)
        (pair.server if ours else pair.client).connection.request_key_update()
        stream_id = traffic(pair.client).open(3000)
        quiet(pair)
        assert arrived(pair.server, {stream_id: 3000})
        assert pair.nonces.generations("server") == set(range(generation + 1))
        doze(pair.server)
        doze(pair.client)
        quiet(pair)


def test_it_is_handed_over_while_it_dozes() -> None:
    pair = traffic_pair("aioquic", "quicbaton")
    for _ in range(4):
        quiet(pair)
        doze(pair.server)
        old = pair.server.connection
        move(pair.server, begin_cutover=True)
        assert not old.dozes
        with pytest.raises(GivenAwayError):
            old.doze(pair.now)
        stream_id = traffic(pair.client).open(4000)
        quiet(pair)
        assert arrived(pair.server, {stream_id: 4000})


def test_it_is_given_up_without_being_built_again_and_its_state_is_the_same() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    quiet(pair)
    pair.server.take_events()
    server = pair.server.connection
    assert isinstance(server, Connection)
    server.why_awake(pair.now)
    copied = msgspec.msgpack.decode(msgspec.msgpack.encode(server._seen), type=ConnectionState)
    awake = Connection(copied, origin_s=server._origin_s, issuer=None, entropy=Entropy(0))
    doze(pair.server)
    for one in (server, awake):
        assert one.parting_trains(pair.now) == []
        one.stay()
    assert server.dozes
    assert server.freeze(pair.now + 1) == awake.freeze(pair.now + 1)


def test_a_connection_that_is_let_go_does_not_doze_on() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    quiet(pair)
    doze(pair.server)
    connection = pair.server.connection
    connection.let_go()
    assert not connection.dozes
    assert connection.smoothed_rtt_s > 0
    for call in (connection.get_timer, connection.stay, lambda: connection.doze(pair.now)):
        with pytest.raises(GivenAwayError):
            call()


def test_questions_do_not_wake_it_and_have_the_same_answers() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    traffic(pair.client).open(5000)
    quiet(pair)
    connection = pair.server.connection
    connection.why_awake(pair.now)  # its clock stands at the latest call
    awake = _answers(connection, pair.now)
    assert len(awake) > 30
    doze(pair.server)
    assert _answers(connection, pair.now) == awake
    assert connection.dozes


def _answers(connection: Any, now: float) -> dict[str, Any]:
    """All that a connection can be asked, except for what only the latest turn of sending knows."""
    asked = {
        name: getattr(connection, name)
        for name, member in inspect.getmembers(Connection)
        # The latter is what a property of a compiled class is.
        if isinstance(member, property) or inspect.isgetsetdescriptor(member)
        if not name.startswith("_") and name not in ("dozes", "headroom", "waiting_events")
    }
    return asked | {
        "buffered_bytes": connection.buffered_bytes(),
        "can_send": connection.can_send(0),
        "connection_ids": connection.connection_ids(),
        "get_peer_address": connection.get_peer_address(),
        "get_timer": connection.get_timer(),
        "is_congested": connection.is_congested(0),
        "issued_ids": connection.issued_ids(),
        "next_peer_stream_id": connection.next_peer_stream_id(),
        "quiet_s": connection.quiet_s(now),
        "reset_code": connection.reset_code(0),
        "stream_is_finished": connection.stream_is_finished(0),
        "why_awake": connection.why_awake(now),
    }


def test_lost_packets_are_counted_once_over_a_doze_and_the_end() -> None:
    pair = traffic_pair("quicbaton", "quicbaton", conditions=Conditions(delay_s=0.01, loss=0.2))
    traffic(pair.server).open(200_000)
    pair.run(seconds=30)
    pair.server.take_events()
    doze(pair.server)
    server = pair.server.connection
    lost = server.take_packets_lost()
    assert lost > 0
    server.send_ping(1)
    assert server.take_packets_lost() == 0
    quiet(pair)
    move(pair.server)
    assert server.take_packets_lost() >= 0
    assert server.take_packets_lost() == 0


def test_a_connection_with_something_to_do_does_not_doze() -> None:
    pair = traffic_pair("quicbaton", "quicbaton")
    quiet(pair)
    server = pair.server.connection
    server.send_ping(1)
    assert not server.doze(pair.now)
    quiet(pair)
    pair.server.take_events()
    server.prepare_to_part()  # room in the window is kept by what it would let go of
    assert not server.doze(pair.now)
    server.stay()
    assert server.doze(pair.now)
    assert server.doze(pair.now)
