"""Live connections handed from process to process under libcurl, and a whole process's takeover.

Two server processes share a UDP port. A connection that libcurl downloads over, unthrottled, is
handed to and fro every 200 ms, each time to the process that was not reading it. Measured are:

* the blackout: from the last datagram that the source gave the kernel to the destination's first
  with bytes of the body, both stamped (CLOCK_MONOTONIC) in the server processes before the system
  call. The controlling process only says when. As a source parts with two short trains in the
  course of a handoff, the longest silence around it is published, too: the longest time in which
  neither process gave the kernel bytes of the body, within 10 ms of the change;
* goodput, of a download with handoffs over that of one without, in alternating rounds;
* through a link with 10 ms each way (`bench.link`): the longest pause between body bytes within
  100 ms of a handoff, less the median of the same in a download without handoffs, beside what
  closing and connecting anew costs until the next byte of a body;
* connections per second when a new process takes over all of another one's, most of them idle and
  some making requests all the time; afterwards every one of them makes a request.
"""

import argparse
import asyncio
import hashlib
import itertools
import statistics
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

from bench.benchmark import Benchmark
from bench.owners import Owner, Watcher, make_folder, tell
from bench.processes import Program
from bench.servers.handoff_server import DATA_TRAIN_BYTES, Content
from bench.watcher import Account, Order
from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.asking import read_frames
from quicbaton.asyncio.peers.channel import connect_channel
from quicbaton.cli.certificate import CertificateFiles

_MB = 1_000_000
_NS = 1_000_000_000
#: A client's cutover and the answer to a handoff take milliseconds; this is how often they are
#: looked at, and how long at most.
_LOOK_S = 0.005
_LOOKS = 1000
#: Pauses are looked for within this much of a handoff.
_AROUND_NS = 100_000_000
#: Silences are looked for within this much of a handoff.
_SILENCE_NS = 10_000_000
#: One in so many connections is busy during a takeover.
_HUMMING_SHARE = 20
#: The beginning of a download, in which the window still grows; over the link it grows until the
#: queue overflows, and the client then waits for what was lost, handoff or not.
_WARM_UP_S = 0.3
_WARM_UP_LINK_S = 1.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="unthrottled download (600; quick: 300)")
    parser.add_argument("--every-ms", type=int, default=200, help="time between handoffs (200)")
    parser.add_argument("--delay-ms", type=float, default=10.0, help="the link's, each way (10)")
    parser.add_argument("--mbit", type=float, default=100.0, help="the link's rate, 0: none (100)")
    parser.add_argument("--link-mb", type=int, default=0, help="over the link (100; quick: 40)")
    parser.add_argument("--connections", type=int, default=0, help="taken over (1000; quick: 200)")
    parser.add_argument(
        "--only", choices=["local", "link", "takeover"], help="one part, for trials"
    )


@dataclass(frozen=True)
class _Handoff:
    """One handoff as its commander saw it."""

    source: int
    destination: int
    asked_ns: int
    answered_ns: int


@dataclass
class _Run:
    """One download and the handoffs during it."""

    account: Account
    handoffs: list[_Handoff] = field(default_factory=list)
    forwarded: int = 0
    blackouts_us: list[float] = field(default_factory=list)
    silences_us: list[float] = field(default_factory=list)
    size: int = 0

    @property
    def goodput_mb_s(self) -> float:
        samples = self.account.samples
        return self.size / _MB / ((samples[-1][0] - samples[0][0]) / _NS)


async def _command(control: str, command: c.Frame) -> c.Frame:
    channel = await connect_channel(Path(control))
    frames = read_frames(channel)
    channel.write(c.encode(command))
    channel.start()
    answer = await frames.get()
    channel.close()
    return answer


class _Pair:
    """Two processes behind one port, and the client."""

    def __init__(self, owners: Sequence[Owner], watcher: Watcher) -> None:
        self._owners = owners
        self._watcher = watcher

    async def download(
        self, port: int, size: int, every_s: float | None, warm_up_s: float = _WARM_UP_S
    ) -> _Run:
        """One download; with `every_s` its connection is handed over so often."""
        await self._wait_until(idle=True)
        for owner in self._owners:
            owner.take_sends()
        before = await self._forwarded()
        watching = asyncio.ensure_future(self._watcher.ask(Order("download", port, size)))
        handoffs = []
        if every_s is not None:
            handoffs = await self._hand_to_and_fro(watching, every_s, warm_up_s)
        account = await watching
        if account.sha256 != _expected_sha256(size):
            raise RuntimeError("the body arrived altered")
        run = _Run(account, handoffs, size=size)
        run.forwarded = await self._forwarded() - before
        sends = [owner.take_sends() for owner in self._owners]
        changes = _changes(handoffs, sends)
        if every_s is None:
            # Where handoffs might have been: what silence is usual.
            changes = [(at_ns, at_ns) for at_ns in _quiet_moments(run, warm_up_s)]
        run.blackouts_us = [(first - last) / 1000 for last, first in changes if handoffs]
        run.silences_us = [_silence_us(sends, last, first) for last, first in changes]
        return run

    async def reconnect(self, port: int, size: int, count: int) -> list[int]:
        """Nanoseconds to the first byte of a body, each time over a new connection."""
        await self._wait_until(idle=True)
        account = await self._watcher.ask(Order("reconnect", port, size, count))
        return account.first_byte_ns

    async def _hand_to_and_fro(
        self, watching: "asyncio.Future[Account]", every_s: float, warm_up_s: float
    ) -> list[_Handoff]:
        source, name = await self._wait_until(idle=False)
        await asyncio.sleep(warm_up_s)
        handoffs: list[_Handoff] = []
        next_at = monotonic()
        while not watching.done():
            destination = 1 - source
            asked_ns = monotonic_ns()
            command = c.HandOff(name, self._owners[destination].control)
            answer = await _command(self._owners[source].control, command)
            if not isinstance(answer, c.Answer):
                raise RuntimeError(f"unexpected {answer!r}")
            if answer.ok:
                handoffs.append(_Handoff(source, destination, asked_ns, monotonic_ns()))
                source = destination
                next_at += every_s
                await asyncio.sleep(max(0.0, next_at - monotonic()))
            elif answer.code in ("cutover_pending", "busy", "no_such_connection"):
                await asyncio.sleep(_LOOK_S)
            elif not watching.done() and answer.code != "closing":
                raise RuntimeError(f"a handoff was refused: {answer.message}")
        # The last one may have come when the body was through.
        return [one for one in handoffs if one.answered_ns < watching.result().samples[-1][0]]

    async def _wait_until(self, *, idle: bool) -> tuple[int, str]:
        """Until no connection is left of the last client; or until there is one, and where."""
        for _ in range(_LOOKS):
            found = [
                (index, info.connection)
                for index, owner in enumerate(self._owners)
                for info in (await self._list(owner)).connections
                if idle or info.state == "open"
            ]
            if idle and not found:
                return 0, ""
            if not idle and found:
                return found[0]
            await asyncio.sleep(_LOOK_S)
        raise RuntimeError("the connection did not come" if not idle else f"left over: {found}")

    async def _list(self, owner: Owner) -> c.Connections:
        answer = await _command(owner.control, c.ListConnections())
        if not isinstance(answer, c.Connections):
            raise RuntimeError(f"unexpected {answer!r}")
        return answer

    async def _forwarded(self) -> int:
        return sum([(await self._list(one)).datagrams_forwarded for one in self._owners])


_sha256_of: dict[int, str] = {}


def _expected_sha256(size: int) -> str:
    if size not in _sha256_of:
        content, digest, offset = Content(), hashlib.sha256(), 0
        while offset < size:
            piece = content.piece(offset, size)
            digest.update(piece)
            offset += len(piece)
        _sha256_of[size] = digest.hexdigest()
    return _sha256_of[size]


def _changes(
    handoffs: Sequence[_Handoff], sends: Sequence[Sequence[tuple[int, int]]]
) -> list[tuple[int, int]]:
    """Per handoff: when the source sent its last, and the destination its first of the body."""
    changes = []
    times = [[at_ns for at_ns, _ in one] for one in sends]
    for handoff in handoffs:
        # A source that gave the connection away sends nothing more for it until it gets it back.
        last = times[handoff.source][bisect_right(times[handoff.source], handoff.answered_ns) - 1]
        following = sends[handoff.destination]
        for index in range(bisect_left(times[handoff.destination], last), len(following)):
            at_ns, size = following[index]
            if size > DATA_TRAIN_BYTES:
                changes.append((last, at_ns))
                break
    return changes


def _silence_us(sends: Sequence[Sequence[tuple[int, int]]], last: int, first: int) -> float:
    """The longest time without bytes of the body from either process, around one handoff."""
    times = sorted(
        at_ns
        for one in sends
        for at_ns, size in one[
            bisect_left(one, (last - _SILENCE_NS, 0)) : bisect_left(one, (first + _SILENCE_NS, 0))
        ]
        if size > DATA_TRAIN_BYTES
    )
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0) / 1000


def _pause_ns(samples: Sequence[tuple[int, int]], times: Sequence[int], around_ns: int) -> int:
    """The longest pause between pieces of the body that touches `around_ns` +- 100 ms."""
    first = max(1, bisect_left(times, around_ns - _AROUND_NS))
    last = bisect_right(times, around_ns + _AROUND_NS)
    return max(
        (times[index] - times[index - 1] for index in range(first, min(last + 1, len(times)))),
        default=0,
    )


def _pauses_ns(run: _Run, moments_ns: Sequence[int]) -> list[int]:
    samples = run.account.samples
    times = [at_ns for at_ns, _ in samples]
    return [
        _pause_ns(samples, times, at_ns)
        for at_ns in moments_ns
        if times[0] + _AROUND_NS < at_ns < times[-1] - _AROUND_NS
    ]


def _quiet_moments(run: _Run, warm_up_s: float) -> list[int]:
    """Moments of a download without handoffs, where they would have been."""
    samples = run.account.samples
    first = samples[0][0] + int(warm_up_s * _NS)
    return list(range(first, samples[-1][0], 2 * _AROUND_NS))


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    return asyncio.run(_run(options, step))


async def _run(
    options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = make_folder(folder)
        figures: dict[str, Any] = {}
        if options.only in (None, "takeover"):
            figures |= _takeovers(folder, files, options, step)
        first = stack.enter_context(Owner(folder, files, "first"))
        second = stack.enter_context(Owner(folder, files, "join", first.control))
        watcher = stack.enter_context(Watcher(files.certificate))
        pair = _Pair((first, second), watcher)
        port = first.started.port
        if options.only in (None, "local"):
            figures |= await _local(pair, port, options, step)
        if options.only in (None, "link"):
            link = stack.enter_context(
                Program(
                    "bench.link",
                    f"--server-port={port}",
                    f"--delay-ms={options.delay_ms}",
                    f"--mbit={options.mbit}",
                )
            )
            figures |= await _over_link(pair, int(link.read_line()), options, step)
        return figures


async def _local(
    pair: _Pair, port: int, options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    size = (options.mb or (300 if options.quick else 600)) * _MB
    runs: list[_Run] = []
    ratios, rounds = [], []
    usual: list[float] = []
    for number in range(options.rounds):
        step(number, options.rounds, "unthrottled")
        plain = await pair.download(port, size, None)
        moved = await pair.download(port, size, options.every_ms / 1000)
        runs.append(moved)
        usual += plain.silences_us
        ratios.append(moved.goodput_mb_s / plain.goodput_mb_s)
        rounds.append(
            {
                "goodput_mb_s": {
                    "without": round(plain.goodput_mb_s, 1),
                    "with": round(moved.goodput_mb_s, 1),
                },
                "handoffs": len(moved.handoffs),
                "forwarded": moved.forwarded,
                "blackouts_us": [round(one) for one in moved.blackouts_us],
                "silences_us": [round(one) for one in moved.silences_us],
            }
        )
    blackouts = [one for moved in runs for one in moved.blackouts_us]
    silences = [one for moved in runs for one in moved.silences_us]
    handoffs = sum(len(moved.handoffs) for moved in runs)
    return {
        "blackout_us": {"p50": _percentile(blackouts, 50), "p99": _percentile(blackouts, 99)},
        "longest_silence_us": {
            "p50": _percentile(silences, 50),
            "p99": _percentile(silences, 99),
            "p50_without": _percentile(usual, 50),
            "p99_without": _percentile(usual, 99),
        },
        "goodput_ratio": round(statistics.median(ratios), 3),
        "datagrams_forwarded_per_handoff": round(sum(one.forwarded for one in runs) / handoffs, 2),
        "handoffs": handoffs,
        "rounds": rounds,
    }


async def _over_link(
    pair: _Pair, port: int, options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    size = (options.link_mb or (40 if options.quick else 100)) * _MB
    quiet: list[int] = []
    pauses: list[int] = []
    blackouts: list[float] = []
    reconnects: list[int] = []
    for number in range(options.rounds):
        step(number, options.rounds, "20 ms round trip")
        plain = await pair.download(port, size, None)
        quiet += _pauses_ns(plain, _quiet_moments(plain, _WARM_UP_LINK_S))
        moved = await pair.download(port, size, options.every_ms / 1000, _WARM_UP_LINK_S)
        blackouts += moved.blackouts_us
        pauses += _pauses_ns(moved, [one.answered_ns for one in moved.handoffs])
        reconnects += await pair.reconnect(port, 100_000, 10)
    base = statistics.median(quiet)
    gaps = [max(0.0, (one - base) / 1e6) for one in pauses]
    return {
        "client_gap_ms": {
            "p50": round(statistics.median(gaps), 3),
            "max": round(max(gaps), 3),
        },
        "reconnect_ms": {"p50": round(statistics.median(reconnects) / 1e6, 3)},
        "over_the_link": {
            "handoffs": len(pauses),
            "pause_without_handoff_ms": {
                "p50": round(base / 1e6, 3),
                "p90": _percentile([one / 1e6 for one in quiet], 90, 3),
                "max": round(max(quiet) / 1e6, 3),
            },
            "client_gap_ms": [round(one, 3) for one in gaps],
            "blackout_us": {"p50": _percentile(blackouts, 50), "p99": _percentile(blackouts, 99)},
        },
    }


def _takeovers(
    folder: Path,
    files: CertificateFiles,
    options: argparse.Namespace,
    step: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """One process after the other replaces its predecessor, under the same clients."""
    count = options.connections or (200 if options.quick else 1000)
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        step(0, options.rounds, f"{count} connections")
        owner = stack.enter_context(Owner(folder, files, "first"))
        crowd = stack.enter_context(Program("bench.crowd", str(owner.started.port)))
        tell(crowd, "open", count)
        tell(crowd, "hum", count // _HUMMING_SHARE)
        for number in range(options.rounds):
            step(number, options.rounds, "takeover")
            owner = stack.enter_context(Owner(folder, files, "takeover", owner.control))
            started = owner.started
            if started.message or started.took_over != count:
                raise RuntimeError(f"{started.took_over} of {count} moved: {started.message}")
            rounds.append({"seconds": round(started.takeover_s, 3), "moved": started.took_over})
        requests = tell(crowd, "hush").succeeded
        tell(crowd, "ask")
    return {
        "takeover_connections_per_s": round(
            count / statistics.median(one["seconds"] for one in rounds), 1
        ),
        "takeover": {
            "connections": count,
            "with_requests": count // _HUMMING_SHARE,
            "requests_meanwhile": requests,
            "rounds": rounds,
        },
    }


def _percentile(values: Sequence[float], percent: int, digits: int = 1) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], digits)


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw the blackouts' distribution."""
    if "blackout_us" not in figures:
        return  # a trial of another part
    blackouts = sorted(one / 1000 for number in figures["rounds"] for one in number["blackouts_us"])
    shares = [100 * (index + 1) / len(blackouts) for index in range(len(blackouts))]
    axes.step(blackouts, shares, where="post", color="#c2410c")
    axes.axvline(figures["blackout_us"]["p50"] / 1000, color="#94a3b8", linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("blackout, ms")
    axes.set_ylabel("share of handoffs, %")
    axes.set_ylim(0, 100)
    axes.set_title(
        f"{len(blackouts)} handoffs between processes during a download: "
        f"p50 {figures['blackout_us']['p50'] / 1000:.2f} ms",
        loc="left",
    )


BENCHMARK = Benchmark(
    summary="blackout, goodput and client-side gap of handoffs under libcurl; takeover speed",
    configure=configure,
    run=run,
    plot=plot,
)
