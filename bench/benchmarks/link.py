"""CPU of the server process per byte where people are: behind a link with a rate and a delay.

On the loopback a server sends 44 packets with one system call and reads its ACKs by the dozen.
Behind a link of 200 Mbit/s packets leave as ACKs come in, a few at a time. One libcurl downloads
through `bench.link`, whose CPU is nobody's figure, from one server at a time, in rounds whose order
turns. The link's queue holds 50 ms, so nobody loses a packet before its window has outgrown the
path's; what is lost is lost there. Reported are medians over the rounds.
"""

import argparse
import datetime
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import contestants
from bench.bars import draw_groups
from bench.benchmark import Benchmark
from bench.contestants import Contestant
from bench.peers import COMPILED, PEREGRINE
from bench.processes import Client, Link
from bench.rounds import alternate, median
from quicbaton.cli.certificate import write_self_signed

SERVERS = ("quicbaton", COMPILED, "qh3", "aioquic", PEREGRINE.name)
RTTS_MS = (20, 100)
MBIT = 200

_MB = 1_000_000
_COLOURS = {name: contestants.COLOURS[name] for name in SERVERS}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="body size in MB (100; quick: 25)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="a comma-separated choice")
    parser.add_argument("--rtts-ms", default=",".join(map(str, RTTS_MS)), help="round trips")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers behind each link, in alternating rounds."""
    step(0, 1, "starting servers")
    names, missing = contestants.choose(options.servers)
    rtts_ms = [int(one) for one in options.rtts_ms.split(",")]
    body_bytes = (options.mb or (25 if options.quick else 100)) * _MB
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        servers = {
            name: contestants.enter(stack, name, folder, files, body_bytes) for name in names
        }
        client = stack.enter_context(Client(files.certificate, body_bytes))
        for number, name, rtt_ms in alternate(options.rounds, names, rtts_ms, step):
            measured = _measure(servers[name], client, rtt_ms)
            rounds.append({"round": number, "server": name, "rtt_ms": rtt_ms, **measured})
    return {"missing": missing, **_figures(names, rtts_ms, rounds, body_bytes)}


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per 100 MB, by round trip."""
    groups = {
        f"round trip {key.removeprefix('rtt_').removesuffix('ms')} ms": values
        for key, values in figures["cpu_s_per_100mb"].items()
    }
    draw_groups(axes, groups, _COLOURS)
    axes.set_ylabel("server CPU, seconds per 100 MB")
    axes.set_title(
        f"Downloads by libcurl behind a link of {MBIT} Mbit/s: CPU of the server process "
        "(less is better)",
        loc="left",
    )


def _measure(server: Contestant, client: Client, rtt_ms: int) -> dict[str, float]:
    with Link(server.ready.port, delay_ms=rtt_ms / 2, mbit=MBIT) as link:
        client.ask("open", link.port)
        before_s = server.cpu_s()
        answer = client.ask("download", link.port)
        cpu_s = server.cpu_s() - before_s
        client.ask("close", link.port)
        if answer.sha256 != server.ready.body_sha256:
            raise RuntimeError(f"behind {rtt_ms} ms the body arrived altered")
        return {"cpu_s": cpu_s, "elapsed_s": answer.seconds, "link_cpu_s": link.cpu_s()}


def _figures(
    names: list[str], rtts_ms: list[int], rounds: list[dict[str, Any]], body_bytes: int
) -> dict[str, Any]:
    body_mb = body_bytes / _MB

    def each(quantity: str, figure: Callable[[float], float]) -> dict[str, dict[str, float]]:
        return {
            f"rtt_{rtt}ms": {
                name: figure(median(rounds, quantity, server=name, rtt_ms=rtt)) for name in names
            }
            for rtt in rtts_ms
        }

    return {
        "cpu_s_per_100mb": each("cpu_s", lambda cpu_s: round(cpu_s * 100 / body_mb, 3)),
        "goodput_mb_s": each("elapsed_s", lambda elapsed_s: round(body_mb / elapsed_s, 2)),
        "method": {
            "body_bytes": body_bytes,
            "mbit": MBIT,
            "congestion_control": "each library's default",
            "peregrine": PEREGRINE.requirement,
        },
        "rounds": rounds,
    }


def report(figures: dict[str, Any]) -> list[str]:
    """CPU as ratios over those of the fastest peers, and what is missing."""
    lines = contestants.missing_lines(figures)
    for key, values in figures["cpu_s_per_100mb"].items():
        lines += contestants.ratio_lines(f"{key}, CPU per byte", values, ("qh3", PEREGRINE.name))
    return lines


BENCHMARK = Benchmark(
    summary="server CPU per 100 MB behind a link of 200 Mbit/s, at 20 and 100 ms",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
