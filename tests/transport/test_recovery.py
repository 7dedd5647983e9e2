"""The effects of an ACK, and its cost (RFC 9002; RFC 9000 §13, §21.4)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import SupportsIndex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton import limits
from quicbaton.testing import Pair
from quicbaton.transport import frames as f
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import NEVER, ConnectionState, SentRun
from tests.transport.forge import Forger, state_of


class Counting(list[SentRun]):
    """Counts how many records are looked at one by one."""

    looks = 0

    def __getitem__(self, index: SupportsIndex | slice) -> SentRun:  # type: ignore[override]
        if not isinstance(index, slice):
            Counting.looks += 1
        return super().__getitem__(index)  # type: ignore[return-value, call-overload]

    def __iter__(self):  # type: ignore[no-untyped-def]
        for run in super().__iter__():
            Counting.looks += 1
            yield run


def ack(*ranges: tuple[int, int]) -> bytes:
    """An ACK frame of ranges [start, stop), the highest first."""
    start, stop = ranges[0]
    parts = [f.ACK, stop - 1, 0, len(ranges) - 1, stop - start - 1]
    for lower, upper in ranges[1:]:
        parts += [start - upper - 1, upper - lower - 1]
        start = lower
    return b"".join(map(encode_varint, parts))


Settled = tuple[Pair, ConnectionState, Forger]


def settled() -> Settled:
    """A server that has room for everything and leaves no number out."""
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    state = state_of(pair.server)
    state.congestion.window_bytes = 1 << 30
    state.congestion.pacing_tokens_bytes = 1e12
    state.numbers.skip_at = 1 << 40
    return pair, state, Forger(pair.server, pair.client.address)


@pytest.fixture(scope="module")
def shared() -> Settled:
    return settled()


def send_pings(pair: Pair, count: int) -> list[int]:
    """The numbers of so many packets of the server, all in flight."""
    state = state_of(pair.server)
    first = state.numbers.next_number
    for uid in range(count):
        pair.server.connection.send_ping(uid)
        pair.server.datagrams_to_send(pair.now)
    assert state.numbers.next_number == first + count
    return list(range(first, first + count))


def send_datagrams(pair: Pair, count: int) -> list[int]:
    """As `send_pings`, of contents that nobody sends again."""
    state = state_of(pair.server)
    first = state.numbers.next_number
    for _ in range(count):
        pair.server.connection.send_datagram_frame(b"anything")
        pair.server.datagrams_to_send(pair.now)
    assert state.numbers.next_number == first + count
    return list(range(first, first + count))


@pytest.mark.parametrize("in_flight", [100, 3000])
def test_acks_without_news_look_at_few_records_however_much_is_in_flight(in_flight: int) -> None:
    pair, state, forger = settled()
    pending = send_datagrams(pair, in_flight)
    # Everything that may count as lost is: the rest is in flight above what was acknowledged.
    forger.send(ack((pending[4], pending[5])))
    known = ack((pending[4], pending[5]))
    assert len(state.recovery.sent) >= in_flight - 5
    state.recovery.sent = Counting(state.recovery.sent)
    Counting.looks = 0
    forger.send(known * 200)
    assert Counting.looks <= 200 * 4
    assert state.closing is None


def test_an_ack_that_jumps_over_records_looks_at_few_of_them() -> None:
    pair, state, _ = settled()
    numbers = send_datagrams(pair, 2000)
    state.recovery.sent = Counting(state.recovery.sent)
    Counting.looks = 0
    recovery = pair.server.connection._engine.recovery  # type: ignore[attr-defined]
    acked = recovery._take_acked([(numbers[1500], numbers[1502])])
    assert [run.first for run in acked] == numbers[1500:1502]
    assert Counting.looks <= 32


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_an_ack_takes_out_of_the_records_what_it_names(shared: Settled, seed: int) -> None:
    rng = random.Random(seed)
    pair, state, _ = shared
    recovery = pair.server.connection._engine.recovery  # type: ignore[attr-defined]
    number = 1000
    runs = []
    for _ in range(rng.randint(1, 12)):
        number += rng.choice([0, 0, 1, 5])
        count = rng.choice([1, 1, 2, 7])
        runs.append(run_of(number, count))
        number += count
    state.recovery.sent = runs[:]
    before = numbers_of(runs)
    ranges = []
    top = number + rng.randint(0, 3)
    while top > 995 and len(ranges) < 8:
        start = max(0, top - rng.choice([1, 2, 3, 9]))
        ranges.append((start, top))
        top = start - rng.choice([1, 2, 4, 9])
    named = {value for start, stop in ranges for value in range(start, stop)}
    acked = recovery._take_acked(ranges)
    assert numbers_of(acked) == [value for value in before if value in named]
    assert numbers_of(state.recovery.sent) == [value for value in before if value not in named]
    for run in (*acked, *state.recovery.sent):
        assert run.offset == 10 * (run.first - 1000)


def run_of(first: int, count: int) -> SentRun:
    return SentRun(
        first=first,
        count=count,
        at_us=0,
        size=1200,
        eliciting=True,
        path=0,
        marked=False,
        stream_id=0,
        offset=10 * (first - 1000),
        chunk=10,
        frames=[],
        delivery=None,
    )


def numbers_of(runs: Iterable[SentRun]) -> list[int]:
    return [run.first + index for run in runs for index in range(run.count)]


def test_an_ack_of_ack_only_packets_finds_losses() -> None:
    """RFC 9002 §6.1: also a packet that is not ack-eliciting is a later packet."""
    pair, state, forger = settled()
    lost = send_pings(pair, 1)[0]
    first = state.numbers.next_number
    for _ in range(4):
        forger.send(bytes([f.PING]))
        forger.send(bytes([f.PING]))
        pair.server.datagrams_to_send(pair.now)
    assert [run.first for run in state.recovery.sent] == [lost]
    forger.send(ack((first, first + 2)))
    assert state.recovery.loss_at_us != NEVER  # two later packets: only time will tell
    assert state.pings_due == []
    forger.send(ack((first, first + 4)))
    assert state.recovery.sent == []
    assert state.pings_due == [0]


def test_an_ack_of_ack_only_packets_ends_the_backoff() -> None:
    """RFC 9002 §6.2.1."""
    pair, state, forger = settled()
    send_pings(pair, 1)
    forger.send(bytes([f.PING]))
    forger.send(bytes([f.PING]))
    first = state.numbers.next_number
    pair.server.datagrams_to_send(pair.now)
    state.recovery.pto_count = 4
    forger.send(ack((first, first + 1)))
    assert state.recovery.pto_count == 0
    state.recovery.pto_count = 4
    forger.send(ack((first, first + 1)))  # nothing that was not known
    assert state.recovery.pto_count == 4


def test_the_minimum_rtt_is_measured_anew_after_persistent_congestion() -> None:
    """RFC 9002 §5.2: the network may be another one."""
    pair, state, forger = settled()
    fast = state.recovery.min_rtt_us
    send_pings(pair, 1)
    for _ in range(8):
        pair.now += 1.0
        send_pings(pair, 1)
    state.recovery.pto_count = 0
    last = send_pings(pair, 1)[0]
    pair.now += 0.4
    forger.send(ack((last, last + 1)))
    assert state.recovery.latest_rtt_us >= 400_000 > fast
    assert state.recovery.min_rtt_us == state.recovery.latest_rtt_us


@pytest.mark.parametrize("ahead", [0, 1, 1000])
def test_an_ack_for_a_packet_never_sent_is_a_violation(ahead: int) -> None:
    """RFC 9000 §13.1: an optimistic ACK."""
    _, state, forger = settled()
    number = state.numbers.next_number + ahead
    forger.send(ack((number, number + 1)))
    assert state.closing is not None
    assert state.closing.error_code == f.PROTOCOL_VIOLATION


def test_an_ack_for_a_number_left_out_ends_the_connection_in_silence() -> None:
    """RFC 9000 §21.4. It may also mean that another process sends with our keys."""
    pair, state, forger = settled()
    state.numbers.skip_at = state.numbers.next_number
    skipped = state.numbers.next_number
    send_after_gap = state.numbers.next_number + 1
    pair.server.connection.send_ping(1)
    pair.server.datagrams_to_send(pair.now)
    forger.send(ack((send_after_gap, send_after_gap + 1)))
    assert state.closing is None
    forger.send(ack((skipped, send_after_gap + 1)))
    assert state.closed
    assert pair.server.connection.trains_to_send(pair.now) == []


def unanswered() -> tuple[Pair, float]:
    """A server whose PING gets no answer, and when it wants to probe."""
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    server = pair.server.connection
    server.send_ping(7)
    server.trains_to_send(pair.now)
    return pair, server.get_timer()


def test_a_probe_that_is_due_is_put_off_for_longer_each_time() -> None:
    pair, due = unanswered()
    server = pair.server.connection
    assert not server.is_loss_due(due - 0.001)
    waits = []
    now = due
    while server.hold_loss(now):
        assert not server.is_loss_due(now)
        later = server.get_timer()
        waits.append(later - now)
        now = later
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(limits.HOLD_US / 1e6, abs=1e-5)
    assert len(waits) < 10
    assert due + 1 < now < due + 2.1
    server.handle_timer(now)
    assert state_of(pair.server).recovery.probes_due


def test_nothing_is_put_off_that_is_not_due() -> None:
    pair, due = unanswered()
    server = pair.server.connection
    assert not server.hold_loss(due - 0.001)
    assert server.get_timer() == due


def test_an_ack_ends_what_was_put_off() -> None:
    pair, due = unanswered()
    server = pair.server.connection
    assert server.hold_loss(due)
    state = state_of(pair.server)
    number = state.numbers.next_number - 1
    Forger(pair.server, pair.client.address).send(ack((number, number + 1)))
    server.send_ping(8)
    server.trains_to_send(pair.now)
    assert server.hold_loss(server.get_timer())
