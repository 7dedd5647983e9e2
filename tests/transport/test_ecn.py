"""ECN: marks are counted from the first packet on, tried, validated, answered, given up.

RFC 9000 §13.4 and Appendix A.4, RFC 9002 §7.1.
"""

from __future__ import annotations

from typing import Any

import pytest

from quicbaton.testing import Conditions, EndOptions, Pair, move
from quicbaton.testing.link import Marked, ecn_of
from quicbaton.transport.paths.ecn import CAPABLE, FAILED, TESTED_PACKETS, TESTING, UNKNOWN
from quicbaton.transport.state import NumberSpace, PathState
from tests.transport.forge import state_of
from tests.transport.states import through_bytes

SIZE = 200_000
OTHER = ("198.51.100.7", 1000)


def conditions(ecn: Any = "kept", **more: Any) -> Conditions:
    return Conditions(ecn=ecn, **more)


class Download:
    """A server that sends, over a link that does what it likes with its marks."""

    def __init__(self, ecn: Any = "kept", client: Any = "quicbaton", **more: Any) -> None:
        self.pair = Pair(conditions(), towards_client=conditions(ecn, **more), client=client)
        self.marks: list[int] = []
        send = self.pair.link.send

        def spy(direction: Any, data: bytes, *rest: Any) -> None:
            if direction == "server" and not data[0] & 0x80:
                self.marks.append(ecn_of(data))
            send(direction, data, *rest)

        self.pair.link.send = spy  # type: ignore[method-assign]
        self.pair.connect()
        self.pair.client.connection.send_stream_data(0, b"get", end_stream=True)
        self.pair.run(seconds=1)

    @property
    def path(self) -> PathState:
        return state_of(self.pair.server).paths[0]

    @property
    def numbers(self) -> NumberSpace:
        return state_of(self.pair.server).numbers

    def send(self, size: int = SIZE) -> int:
        """Bytes that arrived of these."""
        self.pair.server.connection.send_stream_data(0, bytes(size))
        got = 0

        def arrived() -> bool:
            nonlocal got
            got += sum(len(getattr(event, "data", b"")) for event in self.pair.client.take_events())
            return got == size

        self.pair.run(arrived, seconds=60)
        return got


# --- receiving ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [1, 2, 3])
def test_every_packet_is_counted_from_the_first_on(mark: int) -> None:
    """A client that marks its Initial is told of it in every packet number space, or it would take
    the path for one that loses marks (§13.4.2.1)."""
    pair = Pair(client=EndOptions("aioquic"))
    counted: list[tuple[int, int, int]] = []
    client = pair.client._quic
    handle = client._handle_ack_frame

    def watch(context: Any, frame_type: int, buf: Any) -> None:
        assert frame_type == 0x03
        at = buf.tell()
        handle(context, frame_type, buf)
        end = buf.tell()
        buf.seek(at)
        fields = []
        while buf.tell() < end:
            fields.append(buf.pull_uint_var())
        counted.append(tuple(fields[-3:]))

    handlers = client._QuicConnection__frame_handlers
    for kind in (0x02, 0x03):
        handlers[kind] = (watch, handlers[kind][1])
    send = pair.link.send

    def marking(direction: Any, data: bytes, *rest: Any) -> None:
        send(direction, Marked.of(data, mark) if direction == "client" else data, *rest)

    pair.link.send = marking  # type: ignore[method-assign]
    pair.connect()
    for uid in range(20):
        client.send_ping(uid)
        pair.run(seconds=0.1)
    numbers = state_of(pair.server).numbers
    place = (1, 0, 2)[mark - 1]
    received = sum(numbers.received[1::2]) - sum(numbers.received[0::2])
    assert counted[-1][place] == sum(counted[-1]) == sum(numbers.ecn_received)
    assert numbers.ecn_received[place] >= received
    assert len(counted) > 3  # of all three spaces


# --- sending ------------------------------------------------------------------------------------


def test_a_peer_that_reports_no_marks_gets_no_more_of_them() -> None:
    download = Download(client="aioquic")
    del vars(download.pair.client.connection)["_write_ack_frame"]  # aioquic as it is
    download.pair.rebind(OTHER)
    download.pair.client.connection.send_ping(1)
    assert download.send() == SIZE
    assert download.path.ecn == FAILED


def test_all_is_marked_once_the_peer_has_reported_it() -> None:
    download = Download()
    assert download.path.ecn == CAPABLE
    download.marks.clear()
    assert download.send() == SIZE
    assert download.marks.count(2) > 0.95 * len(download.marks)
    assert download.numbers.ecn_acked[0] <= download.numbers.ecn_sent
    assert download.numbers.ecn_acked[1:] == [0, 0]


@pytest.mark.parametrize("ecn", ["bleached", "rewritten"])
def test_a_path_that_changes_marks_gets_no_more_of_them(ecn: str) -> None:
    download = Download(ecn)
    assert download.path.ecn == FAILED
    assert 0 < download.marks.count(2) <= 2 * TESTED_PACKETS
    download.marks.clear()
    assert download.send() == SIZE
    assert set(download.marks) == {0}


def test_a_path_that_drops_marked_packets_gets_no_more_of_them() -> None:
    """One probe timeout, and those are not marked."""
    download = Download("dropped")
    assert download.send() == SIZE
    assert download.path.ecn == FAILED
    download.marks.clear()
    assert download.send() == SIZE
    assert set(download.marks) == {0}


def test_a_path_that_begins_to_bleach_gets_no_more_marks() -> None:
    download = Download()
    download.pair.link.change(conditions(), conditions("bleached"))
    assert download.send() == SIZE
    assert download.path.ecn == FAILED


def test_a_mark_of_congestion_cuts_the_window_once_a_round_trip() -> None:
    download = Download()
    state = state_of(download.pair.server)
    before = state.congestion.window_bytes
    assert state.congestion.threshold_bytes == -1
    download.pair.link.change(conditions(), conditions("congested"))
    download.pair.server.connection.send_stream_data(0, bytes(20_000))
    download.pair.run(seconds=0.5)
    assert state.numbers.ecn_acked[2] > 0
    assert download.path.ecn == CAPABLE
    assert state.congestion.threshold_bytes < before
    # 20,000 bytes in windows of 12,000 and less are three round trips, and CUBIC's beta is 0.7.
    assert before * 0.7**3 - 2 < state.congestion.window_bytes < before
    assert state.recovery.loss_at_us == -1
    download.pair.link.change(conditions(), conditions())
    download.pair.client.take_events()
    assert download.send() == SIZE


def test_loss_beside_marks_says_nothing_of_them() -> None:
    download = Download(loss=0.05)
    assert download.send() == SIZE
    assert download.path.ecn == CAPABLE


# --- other paths, other owners ------------------------------------------------------------------


def test_another_host_of_the_client_s_is_tried_anew_and_another_port_is_not() -> None:
    download = Download()
    pair = download.pair
    address = pair.rebind()
    pair.client.connection.send_ping(1)
    pair.run(lambda: download.path.remote == address)
    assert download.path.ecn == CAPABLE
    pair.run(seconds=1)
    pair.link.change(conditions(), conditions("bleached"))
    pair.rebind(OTHER)
    pair.client.connection.send_ping(2)
    pair.run(lambda: download.path.remote == OTHER)
    assert download.path.ecn == TESTING
    assert download.send() == SIZE
    assert download.path.ecn == FAILED


@pytest.mark.parametrize("moment", range(10))
def test_a_trial_goes_on_at_the_next_owner(moment: int) -> None:
    download = Download()
    pair = download.pair
    pair.rebind(OTHER)
    pair.client.connection.send_ping(1)
    pair.server.connection.send_stream_data(0, bytes(60_000))
    pair.transmit()
    for _ in range(moment):
        pair.step()
    before = through_bytes(state_of(pair.server))
    pair.server = move(pair.server)
    assert state_of(pair.server).paths == before.paths
    pair.run(seconds=2)
    pair.client.take_events()
    assert download.path.ecn == CAPABLE
    assert download.send() == SIZE


@pytest.mark.parametrize("ecn", ["kept", "bleached"])
def test_another_host_tries_anew_whatever_was_known(ecn: str) -> None:
    download = Download("bleached" if ecn == "kept" else "kept")
    pair = download.pair
    pair.server.connection.send_stream_data(0, bytes(20_000))
    pair.transmit()
    pair.link.change(conditions(), conditions(ecn))
    pair.server = move(pair.server, other_host=True)
    assert download.path.ecn in (TESTING, UNKNOWN)
    assert download.path.ecn_unproved <= TESTED_PACKETS + 44
    pair.run(seconds=0.2)
    pair.client.take_events()
    assert download.send() == SIZE
    assert download.path.ecn == (CAPABLE if ecn == "kept" else FAILED)
