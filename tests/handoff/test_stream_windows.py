"""The windows of relayed streams: every byte once and in order, never more than a window of them
under way, and no wait without end."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicbaton.errors import PeerError
from quicbaton.handoff.stream_relay import Piece, Receiving, Sending

WINDOW = 100


class Pipe:
    """Both ends of a direction, and a link between them that delivers when told to."""

    def __init__(self, withheld: int = 0) -> None:
        self.sending = Sending(withheld, window_bytes=WINDOW)
        self.receiving = Receiving(withheld, window_bytes=WINDOW)
        self.forth: deque[Piece] = deque()
        self.back: deque[int] = deque()
        self.received = b""
        self.unread = withheld
        self.ended = False
        self.under_way_bytes = withheld

    def write(self, data: bytes, fin: bool = False) -> None:
        self.forth += self.sending.write(data, fin)

    def open(self) -> None:
        self.forth += self.sending.open()

    def deliver(self) -> None:
        """The other side gets the next message."""
        data, end = self.forth.popleft()
        assert self.receiving.receive(len(data), end)
        self.received += data
        self.ended = end
        self.unread += len(data) + end

    def read(self, size: int) -> None:
        size = min(size, self.unread)
        self.unread -= size
        self.back.append(self.receiving.release(size))

    def credit(self) -> None:
        size = self.back.popleft()
        if size:
            self.forth += self.sending.credit(size)

    @property
    def uncredited(self) -> int:
        return self.unread + sum(len(data) + end for data, end in self.forth)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3 * WINDOW)),
        st.tuples(st.just("read"), st.integers(0, 2 * WINDOW)),
        st.sampled_from([("open", 0), ("deliver", 0), ("credit", 0)]),
    ),
    max_size=80,
)


@given(steps, st.integers(0, 3 * WINDOW))
def test_every_byte_arrives_once_in_order_and_windows_hold(
    script: list[tuple[str, int]], withheld: int
) -> None:
    pipe = Pipe(withheld)
    written = b""
    for what, size in script:
        if what == "write":
            data = bytes(index % 251 for index in range(len(written), len(written) + size))
            pipe.write(data)
            written += data
        elif what == "read":
            pipe.read(size)
        elif what == "open":
            pipe.open()
        elif what == "deliver" and pipe.forth:
            pipe.deliver()
        elif what == "credit" and pipe.back:
            pipe.credit()
        assert pipe.uncredited <= max(WINDOW, withheld)
        assert written.startswith(pipe.received)
    # And then, whatever happened, all of it passes if the other side only reads.
    pipe.open()
    pipe.write(b"", fin=True)
    while not pipe.sending.settled:
        assert pipe.forth or pipe.unread or pipe.back, "nobody has anything to do"
        if pipe.forth:
            pipe.deliver()
        pipe.read(pipe.unread)
        while pipe.back:
            pipe.credit()
    assert pipe.received == written
    assert pipe.ended


@given(st.integers(1, 10 * WINDOW))
def test_who_is_told_to_wait_is_told_to_go_on(size: int) -> None:
    pipe = Pipe()
    pipe.open()
    pipe.write(bytes(size))
    waits = pipe.sending.is_full
    assert waits == (size >= WINDOW)
    while pipe.forth:
        pipe.deliver()
        pipe.read(pipe.unread)
        while pipe.back:
            pipe.credit()
    assert pipe.sending.has_room


def test_a_closed_end_keeps_everything_for_somebody_else() -> None:
    sending = Sending(window_bytes=WINDOW)
    assert sending.write(b"ab", False) == []
    assert sending.write(b"c", True) == []
    assert b"".join(data for data, _ in sending.unsent()) == b"abc"
    assert [end for _, end in sending.unsent()] == [False, False, True]


def test_a_reset_drops_what_is_kept_and_counts_as_one_byte() -> None:
    for opened_first in (True, False):
        sending = Sending(window_bytes=WINDOW)
        if opened_first:
            assert sending.open() == []
        sending.write(bytes(3 * WINDOW), False)
        sending.reset()
        if not opened_first:
            assert sending.open() == []
        assert sending.drained
        assert not sending.settled
        sending.credit(WINDOW + 1 if opened_first else 1)
        assert sending.settled


def test_a_reset_after_the_end_was_sent_counts_no_more() -> None:
    sending = Sending(window_bytes=WINDOW)
    sending.open()
    assert sending.write(b"abc", True) == [(b"abc", True)]
    sending.reset()
    assert sending.credit(4) == []
    assert sending.settled


def test_credit_after_the_other_side_stopped_it_means_nothing() -> None:
    sending = Sending(window_bytes=WINDOW)
    sending.open()
    sending.write(bytes(3 * WINDOW), False)
    sending.abandon()
    assert sending.settled
    assert sending.credit(WINDOW) == []


def test_bytes_that_cross_with_a_stop_mean_nothing() -> None:
    receiving = Receiving(window_bytes=WINDOW)
    receiving.abandon()
    assert not receiving.receive(5 * WINDOW, True)
    assert receiving.ended


def test_what_was_held_back_when_the_end_came_needs_no_credit() -> None:
    receiving = Receiving(WINDOW, window_bytes=WINDOW)
    receiving.receive(0, True)
    receiving.abandon()
    assert receiving.release(WINDOW) == 0
    assert receiving.release_all() == 0


def test_a_peer_that_ignores_the_window_is_refused() -> None:
    receiving = Receiving(window_bytes=WINDOW)
    receiving.receive(WINDOW, False)
    with pytest.raises(PeerError) as caught:
        receiving.receive(2, False)
    assert caught.value.code == "relay_window"


def test_a_peer_that_goes_on_after_the_end_is_refused() -> None:
    receiving = Receiving(window_bytes=WINDOW)
    receiving.receive(1, True)
    with pytest.raises(PeerError) as caught:
        receiving.receive(1, False)
    assert caught.value.code == "relay_ended"


def test_a_peer_that_gives_credit_for_nothing_is_refused() -> None:
    sending = Sending(window_bytes=WINDOW)
    sending.open()
    sending.write(b"abc", False)
    with pytest.raises(PeerError) as caught:
        sending.credit(4)
    assert caught.value.code == "relay_credit"


def test_small_credits_are_gathered_until_the_end() -> None:
    receiving = Receiving(window_bytes=WINDOW)
    receiving.receive(WINDOW // 2, False)
    assert receiving.release(WINDOW // 4 - 1) == 0
    assert receiving.release(1) == WINDOW // 4
    receiving.receive(0, True)
    assert receiving.release(1) == 1
    assert receiving.release_all() == WINDOW // 4
