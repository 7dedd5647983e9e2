"""A connection on another host: no clock is compared, no datagram size is taken on trust."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import CallerError
from quicbaton.service.moving.mover import RebuiltConnection
from quicbaton.testing import Conditions, Pair, move
from quicbaton.transport.loss import pacing
from quicbaton.transport.state import ConnectionState
from tests.moves.traffic import alive, arrived, traffic, traffic_pair

DOWNLOAD_BYTES = 300_000


def state(pair: Pair) -> ConnectionState:
    found: ConnectionState = pair.server.connection._state
    return found


@settings(max_examples=25, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.002, 0.3]), st.integers(1, 60)),
        min_size=1,
        max_size=8,
    ),
    loss=st.sampled_from([0.0, 0.05]),
)
def test_a_transfer_survives_moves_among_hosts(
    moves: list[tuple[bool, float, int]], loss: float
) -> None:
    """Of each move: whether it is to another host, its transit, and the events before it."""
    pair = traffic_pair(conditions=Conditions(delay_s=0.01, loss=loss))
    upload = traffic(pair.client).open(50_000)
    download = traffic(pair.server).open(DOWNLOAD_BYTES)

    def done() -> bool:
        return arrived(pair.client, {download: DOWNLOAD_BYTES}) and arrived(
            pair.server, {upload: 50_000}
        )

    for other_host, transit_s, events in moves:
        for _ in range(events):
            if not done():  # else nothing would happen but the idle timeout
                pair.step()
        before_us = state(pair).clock_us
        move(pair.server, transit_s=transit_s, other_host=other_host)
        assert state(pair).clock_us >= before_us + round(transit_s * 1e6)
    pair.run(done, seconds=120)
    assert alive(pair)


def test_datagram_size_is_searched_for_anew_and_the_window_is_kept() -> None:
    pair = traffic_pair(conditions=Conditions(delay_s=0.01))
    stream_id = traffic(pair.server).open(1_000_000)
    pair.run(lambda: state(pair).paths[0].mtu_bytes > 1200, seconds=5)
    pair.run(seconds=0.05)
    window_bytes = state(pair).congestion.window_bytes
    move(pair.server, other_host=True)
    moved = state(pair)
    assert moved.paths[0].mtu_bytes == 1200
    assert moved.congestion.window_bytes >= window_bytes // 2
    # What any path must bear may go at once, the rest at its pace.
    assert moved.congestion.pacing_tokens_bytes <= pacing.initial_window_bytes(1452)
    pair.run(lambda: state(pair).paths[0].mtu_bytes > 1200, seconds=5)
    pair.run(lambda: arrived(pair.client, {stream_id: 1_000_000}), seconds=60)


def test_what_stood_still_by_the_sources_clock_counts_if_it_is_longer() -> None:
    # Opened at 1,000 s of a clock that was never compared with the source's.
    opened = _opened(frozen_at_us=None)
    assert opened.missed_us(1000.002, 5_000) == 3_000
    assert opened.waited_us(1000.002, 5_000) == 5_000
    # The way to us took longer than the source saw: nothing is ever taken back.
    assert opened.missed_us(1000.009, 5_000) == 0
    assert opened.waited_us(1000.009, 5_000) == 9_000
    # A claim that is given again does not say.
    assert opened.missed_us(1000.009, 0) == 0


def test_on_one_host_the_clock_says_it_all() -> None:
    opened = _opened(frozen_at_us=999_990_000)
    assert opened.missed_us(1000.002, 5_000) == 0
    assert opened.waited_us(1000.002, 5_000) == 12_000


def _opened(frozen_at_us: int | None) -> RebuiltConnection:
    nothing: Any = None
    return RebuiltConnection(
        header=nothing,
        digest=b"",
        client=nothing,
        connection=nothing,
        protocol=nothing,
        relay=None,
        frozen_at_us=frozen_at_us,
        opened_at_s=1000.0,
        size_bytes=0,
    )


def test_connection_time_is_never_taken_back() -> None:
    pair = traffic_pair()
    with pytest.raises(CallerError):
        pair.server.connection.rearm(pair.now, missed_us=-1)
