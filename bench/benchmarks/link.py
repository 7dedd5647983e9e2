"""CPU of the server process per byte where people are: behind a link with a rate and a delay.

On the loopback a server sends 44 packets with one system call and reads its ACKs by the dozen.
Behind a link of 200 Mbit/s packets leave as ACKs come in, a few at a time. One libcurl downloads
through `bench.link`, whose CPU is nobody's figure, from one server at a time, in rounds whose order
turns. The link's queue holds 50 ms, so nobody loses a packet before its window has outgrown the
path's; what is lost is lost there. Reported are medians over the rounds.
"""

import argparse
import datetime
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.benchmark import Benchmark
from bench.processes import Client, Program, Server
from demo import style
from quicbaton.cli.certificate import write_self_signed

SERVERS = ("quicbaton", "qh3", "aioquic")
RTTS_MS = (20, 100)
MBIT = 200

_MB = 1_000_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="body size in MB (100; quick: 25)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="a comma-separated choice")
    parser.add_argument("--rtts-ms", default=",".join(map(str, RTTS_MS)), help="round trips")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers behind each link, in alternating rounds."""
    names = options.servers.split(",")
    rtts_ms = [int(one) for one in options.rtts_ms.split(",")]
    body_bytes = (options.mb or (25 if options.quick else 100)) * _MB
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        servers = {name: stack.enter_context(Server(name, files, body_bytes, {})) for name in names}
        client = stack.enter_context(Client(files.certificate, body_bytes))
        total = options.rounds * len(names) * len(rtts_ms)
        for number in range(options.rounds):
            shift = number % len(names)
            for rtt_ms in rtts_ms:
                for name in names[shift:] + names[:shift]:
                    step(len(rounds), total, f"{name}, {rtt_ms} ms")
                    measured = _measure(servers[name], client, rtt_ms)
                    rounds.append({"round": number, "server": name, "rtt_ms": rtt_ms, **measured})
        step(total, total, "done")
    return _figures(names, rtts_ms, rounds, body_bytes)


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per 100 MB, by round trip."""
    groups = figures["cpu_s_per_100mb"]
    names = [name for name in SERVERS if name in next(iter(groups.values()))]
    colours = {"quicbaton": style.OURS, "aioquic": style.BASELINE, "qh3": style.OTHER}
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        bars = axes.bar(
            [group + (index - (len(names) - 1) / 2) * width for group in range(len(groups))],
            [values[name] for values in groups.values()],
            width * 0.92,
            label=name,
            color=colours[name],
        )
        axes.bar_label(bars, fmt="%.2f", padding=2)
    labels = [f"round trip {key.removeprefix('rtt_').removesuffix('ms')} ms" for key in groups]
    axes.set_xticks(range(len(groups)), labels)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("server CPU, seconds per 100 MB")
    axes.set_title(
        f"Downloads by libcurl behind a link of {MBIT} Mbit/s: CPU of the server process "
        "(less is better)",
        loc="left",
    )
    axes.margins(y=0.25)
    axes.legend(frameon=False, ncols=len(names), loc="upper left")


def _measure(server: Server, client: Client, rtt_ms: int) -> dict[str, float]:
    link = Program(
        "bench.link",
        f"--server-port={server.ready.port}",
        f"--delay-ms={rtt_ms / 2}",
        f"--mbit={MBIT}",
    )
    with link:
        port = int(link.read_line())
        client.ask("open", port)
        before_s = server.cpu_s()
        answer = client.ask("download", port)
        cpu_s = server.cpu_s() - before_s
        client.ask("close", port)
        if answer.sha256 != server.ready.body_sha256:
            raise RuntimeError(f"behind {rtt_ms} ms the body arrived altered")
        return {"cpu_s": cpu_s, "elapsed_s": answer.seconds, "link_cpu_s": link.cpu_s()}


def _figures(
    names: list[str], rtts_ms: list[int], rounds: list[dict[str, Any]], body_bytes: int
) -> dict[str, Any]:
    body_mb = body_bytes / _MB

    def median(name: str, rtt_ms: int, quantity: str) -> float:
        found: list[float] = [
            one[quantity] for one in rounds if (one["server"], one["rtt_ms"]) == (name, rtt_ms)
        ]
        return statistics.median(found)

    return {
        "cpu_s_per_100mb": {
            f"rtt_{rtt}ms": {
                name: round(median(name, rtt, "cpu_s") * 100 / body_mb, 3) for name in names
            }
            for rtt in rtts_ms
        },
        "goodput_mb_s": {
            f"rtt_{rtt}ms": {
                name: round(body_mb / median(name, rtt, "elapsed_s"), 2) for name in names
            }
            for rtt in rtts_ms
        },
        "method": {
            "body_bytes": body_bytes,
            "mbit": MBIT,
            "congestion_control": "each library's default",
        },
        "rounds": rounds,
    }


def report(figures: dict[str, Any]) -> list[str]:
    """CPU as ratios over qh3's."""
    lines = []
    for key, values in figures["cpu_s_per_100mb"].items():
        if {"quicbaton", "qh3"} <= values.keys():
            ratio = values["quicbaton"] / values["qh3"]
            lines.append(f"{key}: CPU of quicbaton over qh3's: {ratio:.2f}")
    return lines


BENCHMARK = Benchmark(
    summary="server CPU per 100 MB behind a link of 200 Mbit/s, at 20 and 100 ms",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
