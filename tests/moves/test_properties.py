"""Under any conditions and any sequence of moves, both ends see the same as without them.

hypothesis draws a run: conditions, which ends are aioquic, and a list of actions. Each action is
followed by a few events. The applications check every byte as it comes (`traffic`), the pair's
checker every packet number.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from quicbaton.errors import CallerError
from quicbaton.testing import Conditions, End, EndOptions, Kind, Pair, StuckError, move
from tests.moves.traffic import Traffic, alive, content, log, reply_bytes, traffic

Action = tuple[str, str, int, int]  # what, which side, a number, events that follow

conditions = st.builds(
    Conditions,
    delay_s=st.sampled_from([0.0005, 0.01, 0.1]),
    jitter_s=st.sampled_from([0.0, 0.005, 0.05]),
    loss=st.sampled_from([0.0, 0.02, 0.15]),
    duplication=st.sampled_from([0.0, 0.1]),
    corruption=st.sampled_from([0.0, 0.03]),
    rate_bytes_per_s=st.sampled_from([0.0, 200_000.0]),
    queue_bytes=st.just(20_000),
    mtu_bytes=st.sampled_from([1200, 1400, 65_507]),
)

actions = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "open", "more", "end", "reset", "stop", "update", "rebind", "datagram", "ping"]
            + 6 * ["move"]
        ),
        st.sampled_from(["client", "server"]),
        st.integers(0, 60_000),
        st.integers(0, 30),
    ),
    min_size=3,
    max_size=25,
)


@dataclass
class Expected:
    """The bytes that a side wrote, and those for which it asked."""

    ended: dict[int, int] = field(default_factory=dict)  # stream: bytes
    open: list[int] = field(default_factory=list)
    reset: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)
    datagrams: list[bytes] = field(default_factory=list)
    pings: int = 0


class Run:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.expected = {"client": Expected(), "server": Expected()}

    def act(self, what: str, side: str, number: int) -> None:
        end: End = getattr(self.pair, side)
        expected = self.expected[side]
        getattr(self, f"_{what}")(end, expected, number)

    def _open(self, end: End, expected: Expected, number: int) -> None:
        stream_id = traffic(end).open(number, unidirectional=bool(number & 1), end=False)
        expected.open.append(stream_id)

    def _pick(self, expected: Expected, number: int) -> int | None:
        return expected.open[number % len(expected.open)] if expected.open else None

    def _more(self, end: End, expected: Expected, number: int) -> None:
        stream_id = self._pick(expected, number)
        if stream_id is not None and stream_id not in log(end).stopped:
            traffic(end).write(stream_id, number, end=False)

    def _end(self, end: End, expected: Expected, number: int) -> None:
        stream_id = self._pick(expected, number)
        if stream_id is not None:
            expected.open.remove(stream_id)
            if stream_id not in log(end).stopped:
                traffic(end).write(stream_id, number, end=True)
            expected.ended[stream_id] = log(end).written[stream_id]

    def _reset(self, end: End, expected: Expected, number: int) -> None:
        stream_id = self._pick(expected, number)
        if stream_id is not None and stream_id not in log(end).stopped:
            expected.open.remove(stream_id)
            expected.reset.add(stream_id)
            end.connection.reset_stream(stream_id, 7)

    def _stop(self, end: End, expected: Expected, number: int) -> None:
        candidates = [
            stream_id
            for stream_id, seen in log(end).streams.items()
            if bool(stream_id & 1) == (end.side == "client")
            and not seen.ended
            and seen.reset_code is None
            and stream_id not in expected.stopped
        ]
        if candidates:
            stream_id = candidates[number % len(candidates)]
            expected.stopped.add(stream_id)
            end.connection.stop_stream(stream_id, 9)

    def _update(self, end: End, _expected: Expected, _number: int) -> None:
        if end.kind == "aioquic":
            return  # it asks nobody whether it may
        try:
            end.connection.request_key_update()
        except CallerError as error:
            assert error.code == "key_update_too_soon"  # noqa: PT017

    def _rebind(self, _end: End, _expected: Expected, _number: int) -> None:
        self.pair.rebind()
        # Behind a NAT only the client can make the new address known: it must have a word to say.
        self.act("ping", "client", 0)

    def _datagram(self, end: End, expected: Expected, number: int) -> None:
        data = content(number, end.side, 0, number % 1000)
        expected.datagrams.append(data)
        end.connection.send_datagram_frame(data)

    def _ping(self, end: End, expected: Expected, _number: int) -> None:
        expected.pings += 1
        end.connection.send_ping(expected.pings)

    def _move(self, end: End, _expected: Expected, number: int) -> None:
        if end.kind == "aioquic":
            return
        cutover = end.side == "server" and number % 3 == 0 and not end.connection.cutover_pending
        move(end, transit_s=number % 7 * 0.004, begin_cutover=cutover)

    # --- the end --------------------------------------------------------------------------------

    def finish(self) -> None:
        for side, expected in self.expected.items():
            while expected.open:
                self.act("end", side, 1)
        for _ in range(20):
            with contextlib.suppress(StuckError):
                self.pair.run(self._is_complete, seconds=3)
                break
            # Where the path to a client's new address could not be validated, only the client
            # can bring it up again.
            self.act("ping", "client", 0)
        assert alive(self.pair)
        assert self._is_complete()

    def _is_complete(self) -> bool:
        return alive(self.pair) is False or all(
            self._has_all(reader, writer)
            for reader, writer in (("client", "server"), ("server", "client"))
        )

    def _has_all(self, reader: str, writer: str) -> bool:
        seen = log(getattr(self.pair, reader)).streams
        wrote, read = self.expected[writer], self.expected[reader]
        for stream_id, size in wrote.ended.items():
            if stream_id in read.stopped or stream_id in wrote.reset:
                continue
            if stream_id not in seen or not seen[stream_id].ended:
                return False
            assert seen[stream_id].received == size
        for stream_id in wrote.reset - read.stopped:
            if stream_id not in seen or seen[stream_id].reset_code != 7:
                return False
        for stream_id in read.ended:  # what the writer replies
            if stream_id & 2 or stream_id in wrote.stopped:
                continue
            if stream_id not in seen or not seen[stream_id].ended:
                return False
            assert seen[stream_id].received == reply_bytes(stream_id)
        got = log(getattr(self.pair, writer)).pings
        return len(got) == wrote.pings


def play(pair: Pair, plan: list[Action], *, always: bool = False) -> None:
    """`always`: both ends move after every single event of the plan."""
    pair.connect()
    run = Run(pair)
    for what, side, number, events in plan:
        run.act(what, side, number)
        for _ in range(events):
            pair.transmit()
            following = pair.next_at_s()
            if following is None or following > pair.now + 2 or not alive(pair):
                break  # nothing but distant timers
            pair.step()
            for end in (pair.client, pair.server) if always else ():
                if end.kind == "quicbaton" and alive(pair):
                    move(end)
    run.finish()
    for reader, writer in (("client", "server"), ("server", "client")):
        sent = run.expected[writer].datagrams
        for data in log(getattr(pair, reader)).datagrams:
            sent.remove(data)  # unreliable, but never made up or repeated


profile = settings(
    deadline=None,
    derandomize=True,
    # A failing plan is printed whole; to shrink one takes minutes.
    phases=[Phase.explicit, Phase.generate],
)


def few_ids(quic: Any) -> None:
    quic._local_active_connection_id_limit = 2


def options(kind: Kind, *, tight: bool, algorithm: str = "cubic") -> EndOptions:
    """`tight`: small flow control windows, and room for two connection IDs."""
    windows = {"max_data": 30_000, "max_stream_data": 20_000} if tight else {}
    configure = few_ids if tight and kind == "aioquic" else None
    return EndOptions(
        kind, create=Traffic, configuration=windows, configure=configure, algorithm=algorithm
    )


plans = given(
    conditions,
    conditions,
    st.integers(0, 1 << 16),
    actions,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["cubic", "reno"]),
)


@settings(profile, max_examples=100)
@plans
def test_moves_change_nothing_between_two_quicbatons(
    there: Conditions,
    back: Conditions,
    seed: int,
    plan: list[Action],
    always: bool,
    tight: bool,
    algorithm: str,
) -> None:
    pair = Pair(
        there,
        towards_client=back,
        client=options("quicbaton", tight=tight, algorithm=algorithm),
        server=options("quicbaton", tight=tight, algorithm=algorithm),
        seed=seed,
    )
    play(pair, plan, always=always)


@settings(profile, max_examples=80)
@plans
def test_moves_of_a_server_change_nothing_for_an_aioquic_client(
    there: Conditions,
    back: Conditions,
    seed: int,
    plan: list[Action],
    always: bool,
    tight: bool,
    algorithm: str,
) -> None:
    pair = Pair(
        there,
        towards_client=back,
        client=options("aioquic", tight=tight, algorithm=algorithm),
        server=options("quicbaton", tight=tight, algorithm=algorithm),
        seed=seed,
    )
    play(pair, plan, always=always)


@settings(profile, max_examples=80)
@plans
def test_moves_of_a_client_change_nothing_for_an_aioquic_server(
    there: Conditions,
    back: Conditions,
    seed: int,
    plan: list[Action],
    always: bool,
    tight: bool,
    algorithm: str,
) -> None:
    pair = Pair(
        there,
        towards_client=back,
        client=options("quicbaton", tight=tight, algorithm=algorithm),
        server=options("aioquic", tight=tight, algorithm=algorithm),
        seed=seed,
    )
    play(pair, plan, always=always)
