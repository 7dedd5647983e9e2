"""Two server processes behind one port, a client, and a connection that goes to and fro."""

import asyncio
import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns

from bench.owners import Owner, Watcher
from bench.servers.handoff_server import DATA_TRAIN_BYTES, Content
from bench.watcher import Account, Order
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation

MB = 1_000_000
NS = 1_000_000_000
#: A cutover and the answer to a handoff take milliseconds, the end of a connection three probe
#: timeouts, which a long queue makes seconds. How often they are looked at, and how long at most.
_LOOK_S = 0.005
_LOOKS = 3000
#: Pauses are looked for within this much of a handoff.
AROUND_NS = 100_000_000
#: Silences are looked for within this much of a handoff.
_SILENCE_NS = 10_000_000
#: The beginning of a download, in which the window still grows.
WARM_UP_S = 0.3


@dataclass(frozen=True)
class Handoff:
    """One handoff as its commander saw it."""

    source: int
    destination: int
    asked_ns: int
    answered_ns: int


@dataclass
class Run:
    """One download and the handoffs during it."""

    account: Account
    handoffs: list[Handoff] = field(default_factory=list)
    forwarded: int = 0
    blackouts_us: list[float] = field(default_factory=list)
    silences_us: list[float] = field(default_factory=list)
    size: int = 0

    @property
    def goodput_mb_s(self) -> float:
        samples = self.account.samples
        return self.size / MB / ((samples[-1][0] - samples[0][0]) / NS)


async def tell_server(control: str, command: c.Frame) -> c.Frame:
    with await Conversation.begin(Path(control)) as conversation:
        conversation.channel.write(c.encode(command))
        return await conversation.next()


class Pair:
    """Two processes behind one port, and the client."""

    def __init__(self, owners: Sequence[Owner], watcher: Watcher) -> None:
        self._owners = owners
        self._watcher = watcher

    async def download(
        self,
        port: int,
        size: int,
        every_s: float | None,
        warm_up_s: float = WARM_UP_S,
        *,
        rate: int = 0,
    ) -> Run:
        """One download; with `every_s` its connection is handed over so often. `rate` is the
        server's, in bytes per second, for a live stream."""
        await self._wait_until(idle=True)
        for owner in self._owners:
            owner.take_sends()
        before = await self._forwarded()
        watching = asyncio.ensure_future(
            self._watcher.ask(Order("download", port, size, rate=rate))
        )
        handoffs = []
        if every_s is not None:
            handoffs = await self._hand_to_and_fro(watching, every_s, warm_up_s)
        account = await watching
        if account.sha256 != expected_sha256(size):
            raise RuntimeError("the body arrived altered")
        run = Run(account, handoffs, size=size)
        run.forwarded = await self._forwarded() - before
        sends = [owner.take_sends() for owner in self._owners]
        changes = _changes(handoffs, sends)
        if every_s is None:
            # Where handoffs might have been: what silence is usual.
            changes = [(at_ns, at_ns) for at_ns in quiet_moments(run, warm_up_s)]
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
    ) -> list[Handoff]:
        source, name = await self._wait_until(idle=False)
        await asyncio.sleep(warm_up_s)
        handoffs: list[Handoff] = []
        next_at = monotonic()
        while not watching.done():
            destination = 1 - source
            asked_ns = monotonic_ns()
            order = c.HandOff(name, self._owners[destination].control)
            answer = await tell_server(self._owners[source].control, order)
            if not isinstance(answer, c.Answer):
                raise RuntimeError(f"unexpected {answer!r}")
            if answer.ok:
                handoffs.append(Handoff(source, destination, asked_ns, monotonic_ns()))
                source = destination
                next_at += every_s
                await asyncio.sleep(max(0.0, next_at - monotonic()))
            elif answer.code in ("cutover_pending", "busy", "no_such_connection"):
                await asyncio.sleep(_LOOK_S)
            elif not watching.done() and answer.code != "closed":
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
        answer = await tell_server(owner.control, c.ListConnections())
        if not isinstance(answer, c.Connections):
            raise RuntimeError(f"unexpected {answer!r}")
        return answer

    async def _forwarded(self) -> int:
        return sum([(await self._list(one)).datagrams_forwarded for one in self._owners])


_sha256_of: dict[int, str] = {}


def expected_sha256(size: int) -> str:
    if size not in _sha256_of:
        content, digest, offset = Content(), hashlib.sha256(), 0
        while offset < size:
            piece = content.piece(offset, size)
            digest.update(piece)
            offset += len(piece)
        _sha256_of[size] = digest.hexdigest()
    return _sha256_of[size]


def _changes(
    handoffs: Sequence[Handoff], sends: Sequence[Sequence[tuple[int, int]]]
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
    first = max(1, bisect_left(times, around_ns - AROUND_NS))
    last = bisect_right(times, around_ns + AROUND_NS)
    return max(
        (times[index] - times[index - 1] for index in range(first, min(last + 1, len(times)))),
        default=0,
    )


def pauses_ns(run: Run, moments_ns: Sequence[int]) -> list[int]:
    samples = run.account.samples
    times = [at_ns for at_ns, _ in samples]
    return [
        _pause_ns(samples, times, at_ns)
        for at_ns in moments_ns
        if times[0] + AROUND_NS < at_ns < times[-1] - AROUND_NS
    ]


def quiet_moments(run: Run, warm_up_s: float) -> list[int]:
    """Moments of a download without handoffs, where they would have been."""
    samples = run.account.samples
    first = samples[0][0] + int(warm_up_s * NS)
    return list(range(first, samples[-1][0], 2 * AROUND_NS))


def percentile(values: Sequence[float], percent: int, digits: int = 1) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], digits)
