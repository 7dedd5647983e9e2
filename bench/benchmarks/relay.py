"""The cost of relaying a stream: latency, and throughput.

Two processes of `quicbaton serve` share a port and run an ASGI program. A connection whose request
runs as a task in the first is handed to the second; the task stays, and its stream goes through
both from then on. On the same stream before and after:

* `added_latency_us`: a client sends a few bytes of a request's body, and the program sends them
  back, one at a time; the percentiles of the round trips through the relay, less those without.
  The first ones after the handoff do not count: the client has yet to cut over.
* `throughput`: bytes that libcurl downloads in a second, before the handoff and afterwards. The
  window's growth at the beginning and the handoff itself do not count (`bench handoff` has that).

Everything runs on one host, and with the client there are three processes: on two cores the relay
has to share them, as it would with other connections.
"""

import argparse
import asyncio
import ssl
import statistics
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic_ns
from typing import Any

from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import DataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from bench.benchmark import Benchmark
from bench.file_server import FileServer
from bench.owners import Watcher
from bench.pair import MB, NS, expected_sha256, percentile, tell_server
from bench.watcher import Order
from demo import style
from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.http3 import H3Connection
from quicbaton.service.peers import commands as c

_PROGRAM = "bench.servers.relay_program:application"
#: Pings that do not count, at the beginning and after the handoff.
_WARM_UP = 100
#: Parts of a download that do not count, at its beginning and after the handoff.
_WARM_UP_S = 0.5
_LOOK_S = 0.005
_LOOKS = 2000
#: The targets.
_ADDED_P50_US = 1000
_THROUGHPUT_RATIO = 0.5


class _Pinging(QuicConnectionProtocol):
    """One request whose body is sent piece by piece."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._came: asyncio.Queue[bytes] = asyncio.Queue()
        self._stream_id = -1

    def begin(self) -> None:
        assert self._http is not None
        head = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", b"/echo"),
        ]
        self._stream_id = self._quic.get_next_available_stream_id()
        self._http.send_headers(self._stream_id, head)

    async def echo(self, number: int) -> int:
        """The nanoseconds until the program has sent the number back."""
        assert self._http is not None
        said = b"%08d" % number
        begun_ns = monotonic_ns()
        self._http.send_data(self._stream_id, said, False)
        self.transmit()
        if await self._came.get() != said:
            raise RuntimeError("another number came back")
        return monotonic_ns() - begun_ns

    def quic_event_received(self, event: QuicEvent) -> None:
        assert self._http is not None
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived) and http_event.data:
                self._came.put_nowait(http_event.data)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--pings", type=int, default=0, help="each way (2000; quick: 500)")
    parser.add_argument("--mb", type=int, default=0, help="of a download (600; quick: 200)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure both, round by round."""
    return asyncio.run(_run(options, step))


async def _run(
    options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    pings = options.pings or (500 if options.quick else 2000)
    size = (options.mb or (200 if options.quick else 600)) * MB
    count = min(options.rounds, 2) if options.quick else options.rounds
    rounds = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = stack.enter_context(FileServer(folder, folder, app=_PROGRAM))
        second = stack.enter_context(
            FileServer(folder, folder, "--join", first.control, app=_PROGRAM)
        )
        watcher = stack.enter_context(Watcher(first.certificate))
        for number in range(count):
            step(2 * number, 2 * count, "latency")
            await _until_idle(first, second)
            direct, relayed = await _measure_latency(first, second, pings)
            step(2 * number + 1, 2 * count, "throughput")
            await _until_idle(first, second)
            throughput = await _measure_throughput(first, second, watcher, size)
            rounds.append(
                {"direct_us": direct, "relayed_us": relayed, "throughput_mb_s": throughput}
            )
        step(2 * count, 2 * count, "done")
    return _figures(rounds, size)


async def _measure_latency(
    first: FileServer, second: FileServer, count: int
) -> tuple[list[float], list[float]]:
    """Round trips in µs, before the handoff and after it."""
    # Certificates are not what is measured here.
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name="localhost", verify_mode=ssl.CERT_NONE
    )
    async with connect(
        "127.0.0.1", first.port, configuration=configuration, create_protocol=_Pinging
    ) as client:
        assert isinstance(client, _Pinging)
        client.begin()
        await client.echo(0)
        source, destination = await _sides(first, second)
        direct = [await client.echo(number) / 1000 for number in range(_WARM_UP + count)]
        await _hand_over(source, destination)
        relayed = [await client.echo(number) / 1000 for number in range(_WARM_UP + count)]
    return direct[_WARM_UP:], relayed[_WARM_UP:]


async def _measure_throughput(
    first: FileServer, second: FileServer, watcher: Watcher, size: int
) -> dict[str, float]:
    """MB/s of one download, before its handoff and after it."""
    watching = asyncio.ensure_future(watcher.ask(Order("download", first.port, size)))
    source, destination = await _sides(first, second)
    await asyncio.sleep(2 * _WARM_UP_S)
    asked_ns = monotonic_ns()
    await _hand_over(source, destination)
    done_ns = monotonic_ns()
    account = await watching
    if account.sha256 != expected_sha256(size):
        raise RuntimeError("the body arrived altered")
    warm_up_ns = int(_WARM_UP_S * NS)
    samples = account.samples
    return {
        "direct": _rate(samples, samples[0][0] + warm_up_ns, asked_ns),
        "relayed": _rate(samples, done_ns + warm_up_ns, samples[-1][0]),
    }


def _rate(samples: Sequence[tuple[int, int]], begin_ns: int, end_ns: int) -> float:
    """MB/s between two moments."""
    first, last = (samples[_at(samples, moment)] for moment in (begin_ns, end_ns))
    if last[0] <= first[0]:
        raise RuntimeError("the download ended too early: --mb has to be more")
    return round((last[1] - first[1]) / MB / ((last[0] - first[0]) / NS), 1)


def _at(samples: Sequence[tuple[int, int]], moment_ns: int) -> int:
    return min(len(samples) - 1, bisect_left(samples, (moment_ns, 0)))


async def _sides(first: FileServer, second: FileServer) -> tuple[tuple[str, str], str]:
    """Where the only open connection is, as (control socket, name), and where it is to go: the
    kernel may have brought it to either."""
    for _ in range(_LOOKS):
        for here, there in ((first, second), (second, first)):
            for info in await _connections(here):
                if info.state == "open":
                    return (here.control, info.connection), there.control
        await asyncio.sleep(_LOOK_S)
    raise RuntimeError("the connection did not come")


async def _until_idle(*servers: FileServer) -> None:
    """Until the last client's connection is forgotten."""
    for _ in range(_LOOKS):
        if not [info for server in servers for info in await _connections(server)]:
            return
        await asyncio.sleep(_LOOK_S)
    raise RuntimeError("the last connection does not end")


async def _connections(server: FileServer) -> list[c.ConnectionInfo]:
    listed = await tell_server(server.control, c.ListConnections())
    if not isinstance(listed, c.Connections):
        raise RuntimeError(f"unexpected {listed!r}")
    return listed.connections


async def _hand_over(source: tuple[str, str], destination: str) -> None:
    control, name = source
    answer = await tell_server(control, c.HandOff(name, destination))
    if not isinstance(answer, c.Answer) or not answer.ok:
        raise RuntimeError(f"the handoff was refused: {answer!r}")


def _figures(rounds: list[dict[str, Any]], size: int) -> dict[str, Any]:
    def percentiles(key: str) -> dict[str, float]:
        values = [value for one in rounds for value in one[key]]
        return {"p50": percentile(values, 50), "p99": percentile(values, 99)}

    def added(percent: int) -> float:
        """The median of the rounds' differences: each has its own noise in both."""
        return round(
            statistics.median(
                percentile(one["relayed_us"], percent) - percentile(one["direct_us"], percent)
                for one in rounds
            ),
            1,
        )

    def rate(key: str) -> float:
        found: list[float] = [one["throughput_mb_s"][key] for one in rounds]
        return statistics.median(found)

    ratio = statistics.median(
        one["throughput_mb_s"]["relayed"] / one["throughput_mb_s"]["direct"] for one in rounds
    )
    return {
        "added_latency_us": {"p50": added(50), "p99": added(99)},
        "round_trip_us": {"direct": percentiles("direct_us"), "relayed": percentiles("relayed_us")},
        "throughput_mb_s": {"direct": rate("direct"), "relayed": rate("relayed")},
        "throughput_ratio": round(ratio, 3),
        "body_bytes": size,
        "rounds": [
            {
                "direct_us": _hundredths(one["direct_us"]),
                "relayed_us": _hundredths(one["relayed_us"]),
                "throughput_mb_s": one["throughput_mb_s"],
            }
            for one in rounds
        ],
    }


def _hundredths(values: list[float]) -> list[float]:
    """The first to the 99th percentile."""
    return [percentile(values, percent) for percent in range(1, 100)]


def report(figures: dict[str, Any]) -> list[str]:
    """Both figures beside what is to be reached."""
    added, ratio = figures["added_latency_us"], figures["throughput_ratio"]
    fast = "met" if added["p50"] < _ADDED_P50_US else "missed"
    wide = "met" if ratio >= _THROUGHPUT_RATIO else "missed"
    return [
        f"added latency: p50 {added['p50']} µs ({fast}: below {_ADDED_P50_US}), "
        f"p99 {added['p99']} µs",
        f"throughput: {ratio} of a direct stream's ({wide}: at least {_THROUGHPUT_RATIO})",
    ]


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw both distributions of the round trips."""
    for key, label, color in (
        ("direct_us", "direct", style.BASELINE),
        ("relayed_us", "relayed", style.OURS),
    ):
        values = sorted(value / 1000 for one in figures["rounds"] for value in one[key])
        shares = [100 * (index + 1) / len(values) for index in range(len(values))]
        axes.step(values, shares, where="post", color=color, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("from a message to its echo by a running request, ms")
    axes.set_ylabel("share of messages, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="lower right")
    axes.set_title(
        f"A relayed stream: {figures['added_latency_us']['p50'] / 1000:.2f} ms more (p50), "
        f"{100 * figures['throughput_ratio']:.0f} % of the throughput",
        loc="left",
    )


BENCHMARK = Benchmark(
    summary="latency and throughput of a stream that is relayed to a running request",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
