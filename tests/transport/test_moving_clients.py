"""An honest client gets an answer wherever it goes, even if an attacker sends copies of its
packets.

RFC 9000 §9: with real connections, over a link in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from aioquic.quic.events import PingAcknowledged

from quicbaton.testing import Conditions, EndOptions, Pair, move
from quicbaton.testing.link import Direction
from quicbaton.transport.connection import Connection
from quicbaton.transport.state import Address, ConnectionState
from tests.transport.forge import Forger

AWAY: Address = ("198.51.100.7", 1000)
SIX: Address = ("2001:db8::7", 1000, 0, 0)


def few_ids(quic: Any) -> None:
    """A client that issues no further IDs."""
    quic._replenish_connection_ids = lambda: None


CLIENTS = {
    "aioquic": EndOptions("aioquic"),
    "quicbaton": EndOptions("quicbaton"),
    "one ID": EndOptions("aioquic", configure=few_ids),
    "no ID": EndOptions("quicbaton", configuration={"connection_id_length": 0}),
}


class Phone:
    """A client that sends a PING every 0.1 s and knows when the last one was acknowledged."""

    def __init__(self, kind: str = "aioquic", delay_s: float = 0.02, seed: int = 1) -> None:
        self.pair = Pair(Conditions(delay_s=delay_s), client=CLIENTS[kind], seed=seed)
        self.pair.connect()
        self.pair.run(seconds=1)
        self.uid = 0
        self.heard_at = self.pair.now

    @property
    def state(self) -> ConnectionState:
        connection = self.pair.server.connection
        assert isinstance(connection, Connection)
        return connection._state

    @property
    def silence_s(self) -> float:
        return self.pair.now - self.heard_at

    def talk(self, seconds: float) -> None:
        pair = self.pair
        end = pair.now + seconds
        while pair.now < end:
            self.uid += 1
            pair.client.connection.send_ping(self.uid)
            pair.run(seconds=0.1)
            for event in pair.client.take_events():
                if isinstance(event, PingAcknowledged):
                    self.heard_at = pair.now

    def step(self, count: int) -> None:
        """So many things happen, but no waiting for a timer."""
        self.pair.transmit()
        for _ in range(count):
            if self.pair.link.in_flight:
                self.pair.step()

    def check(self, where: Address) -> None:
        """The client was answered just now, and every part of the server knows where it is."""
        assert self.silence_s < 0.3
        assert self.pair.server.connection.peer_address == where
        assert self.pair.server.connection.sends_to == where

    def follow(self, *forgers: Callable[[], Address]) -> Callable[[], None]:
        """Copies of all the client's packets come from elsewhere, ahead of them. Returns what ends
        that."""
        send = self.pair.link.send

        def forge(
            direction: Direction, data: bytes, source: Address, to: Address, now: float
        ) -> None:
            if direction == "client":
                for forger in forgers:
                    send(direction, data, forger(), to, now)
            send(direction, data, source, to, now)

        def stop() -> None:
            self.pair.link.send = send  # type: ignore[method-assign]

        self.pair.link.send = forge  # type: ignore[method-assign]
        return stop


@pytest.fixture(params=CLIENTS)
def phone(request: pytest.FixtureRequest) -> Phone:
    return Phone(request.param)


def addresses(count: int, hosts: int = 250) -> list[Address]:
    return [(f"198.51.100.{number % hosts + 1}", 1000 + number) for number in range(count)]


@pytest.mark.parametrize("gap_s", [0.1, 0.5, 1.0, 4.0])
def test_twenty_new_hosts_in_a_row(phone: Phone, gap_s: float) -> None:
    for address in addresses(20):
        phone.pair.rebind(address)
        phone.talk(gap_s)
    phone.talk(0.5)
    phone.check(address)


@pytest.mark.parametrize("gap_s", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["aioquic", "quicbaton"])
def test_ten_moves_on_purpose(kind: str, gap_s: float) -> None:
    """Each with another connection ID, as §9.5 asks of the client."""
    phone = Phone(kind)
    for address in addresses(10):
        phone.pair.client.connection.change_connection_id()
        phone.pair.rebind(address)
        phone.talk(gap_s)
    phone.talk(4)
    phone.check(address)
    phone.talk(10)
    assert len(phone.state.paths) == 1


def test_back_to_the_first_address(phone: Phone) -> None:
    home = phone.pair.client.address
    for address in [AWAY, home, AWAY, SIX, home]:
        phone.pair.rebind(address)
        phone.talk(0.7)
        phone.check(address)


def test_ipv6_and_back(phone: Phone) -> None:
    home = phone.pair.client.address
    for address in (SIX, home):
        phone.pair.rebind(address)
        phone.talk(5)
        phone.check(address)


@pytest.mark.parametrize("moment", range(8))
def test_a_new_host_while_a_cutover_is_open(phone: Phone, moment: int) -> None:
    """The client's next ID is our wish, and its new address a NAT's: nobody moved on purpose."""
    phone.pair.server = move(phone.pair.server)
    phone.pair.server.connection.begin_cutover()
    phone.step(moment)
    phone.pair.rebind(AWAY)
    phone.talk(2)
    phone.check(AWAY)


@pytest.mark.parametrize("moment", range(12))
def test_a_handoff_in_the_middle_of_a_move(phone: Phone, moment: int) -> None:
    for address in (AWAY, SIX):
        phone.pair.rebind(address)
        phone.uid += 1
        phone.pair.client.connection.send_ping(phone.uid)
        phone.step(moment)
        phone.pair.server = move(phone.pair.server, other_host=address is SIX)
        phone.talk(2)
        phone.check(address)


@pytest.mark.parametrize("forgers", [1, 2, 4])
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_move_is_seen_in_spite_of_copies_from_anywhere(kind: str, forgers: int) -> None:
    phone = Phone(kind)
    random = Random(7)

    def anywhere() -> Address:
        return (f"203.0.113.{random.randrange(1, 250)}", 4000)

    stop = phone.follow(*[anywhere] * forgers)
    phone.talk(3)
    assert phone.silence_s < 0.5  # also while they go on
    phone.pair.rebind(AWAY)
    phone.talk(3)
    assert phone.silence_s < 0.5
    assert phone.pair.server.connection.peer_address == AWAY
    phone.pair.server = move(phone.pair.server)
    phone.talk(3)
    assert phone.silence_s < 0.5
    stop()
    phone.talk(1)
    phone.check(AWAY)


@pytest.mark.parametrize("kind", CLIENTS)
def test_forgers_of_a_few_addresses_are_forgotten(kind: str) -> None:
    phone = Phone(kind)
    stop = phone.follow(lambda: ("203.0.113.1", 1), lambda: ("203.0.113.2", 2))
    phone.talk(5)
    phone.pair.rebind(AWAY)
    phone.talk(5)
    stop()
    phone.talk(10)
    phone.check(AWAY)
    assert len(phone.state.paths) == 1
    assert not phone.state.ids.peer_retire_due


def test_copies_do_not_slow_a_download() -> None:
    """The window is measured on a proved path only, so that bouncing about costs none of it."""
    taken_s = []
    for forged in (False, True):
        phone = Phone()
        if forged:
            phone.follow(lambda: ("203.0.113.1", 1))
        pair = phone.pair
        pair.client.connection.send_stream_data(0, b"", end_stream=True)
        pair.run(seconds=0.1)
        begin = pair.now
        pair.server.connection.send_stream_data(0, bytes(1 << 20), end_stream=True)
        got = 0

        def arrived(pair: Pair = pair) -> bool:
            nonlocal got
            got += sum(len(getattr(event, "data", b"")) for event in pair.client.take_events())
            return got == 1 << 20

        pair.run(arrived, seconds=60)
        taken_s.append(pair.now - begin)
    assert taken_s[1] < 2 * taken_s[0]


def test_an_address_that_is_not_proved_is_no_program_s_business() -> None:
    phone = Phone()
    server = phone.pair.server.connection
    home = phone.pair.client.address
    phone.uid += 1
    phone.pair.client.connection.send_ping(phone.uid)
    ((data, _),) = phone.pair.client.datagrams_to_send(phone.pair.now)
    server.receive_datagram(data, AWAY, phone.pair.now)
    assert server.sends_to == AWAY
    assert server.peer_address == server.get_peer_address() == home
    phone.pair.server = move(phone.pair.server)
    server = phone.pair.server.connection
    assert server.sends_to == AWAY
    assert server.get_peer_address() == home


def test_changing_between_proved_addresses_draws_no_fresh_window() -> None:
    """A client that acknowledges nothing gets one window for each of its addresses, once."""
    phone = Phone("quicbaton")
    pair = phone.pair
    home = pair.client.address
    pair.client.connection.send_stream_data(0, b"x", end_stream=False)
    pair.run(seconds=0.1)
    for address in (AWAY, home, AWAY, home):
        pair.rebind(address)
        phone.talk(0.5)
    assert {path.remote for path in phone.state.paths if path.validated} == {AWAY, home}
    pair.server.connection.send_stream_data(0, bytes(4 << 20))
    pair.transmit()
    pair.link.clear()
    sent = 0
    # The client itself, which numbers on and never acknowledges.
    forger = Forger(pair.server, AWAY)
    for number in range(100):
        forger.source = (AWAY, home)[number % 2]
        forger.send(b"\x01")
        sent += sum(len(data) for data, _ in pair.server.datagrams_to_send(pair.now))
    assert sent < 4 * 16_000
