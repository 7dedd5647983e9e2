"""CPU of the server process per byte and per request, beside aioquic and qh3.

One libcurl at a time talks HTTP/3 over the loopback to one server at a time; all servers stay up
and idle otherwise. A round visits every server once, in an order that turns from round to round,
with a connection of its own for each of: one download, one upload, a series of 1 KiB requests.
The connection is opened before the server's CPU clock is read, so handshakes are not in these
figures (the `state` benchmark has them). Reported are medians over the rounds.

aioquic and qh3 run as they come, which means datagrams of 1200 and 1280 bytes; quicbaton finds the
path's limit by itself. Part of the difference is that alone, so a second set of figures has both
set by hand to the size that quicbaton reaches. `quicbaton_compiled` is ours on compiled modules.
"""

import argparse
import datetime
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.benchmark import Benchmark
from bench.peers import COMPILED, available
from bench.processes import Client, Server
from demo import style
from quicbaton.cli.certificate import write_self_signed
from quicbaton.limits import MAX_DATAGRAM_BYTES

SERVERS = ("quicbaton", COMPILED, "aioquic", "qh3")
_OURS = ("quicbaton", COMPILED)

_MB = 1_000_000
_KINDS = ("download", "upload", "small")


@dataclass(frozen=True)
class _Contestant:
    """A server in one configuration; `label` names it in the raw rounds."""

    label: str
    server: str
    kinds: tuple[str, ...] = _KINDS
    options: dict[str, Any] = field(default_factory=dict)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="body size in MB (100; quick: 10)")
    parser.add_argument("--requests", type=int, default=0, help="1 KiB requests (2000; quick: 200)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="a comma-separated choice")
    parser.add_argument(
        "--variant",
        choices=["whole", "chunks"],
        help="how aioquic and qh3 are fed (aioquic: whole, qh3: chunks)",
    )


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers in alternating rounds."""
    names = options.servers.split(",")
    if unknown := set(names) - set(SERVERS):
        raise SystemExit(f"no such server: {', '.join(sorted(unknown))}")
    body_bytes = (options.mb or (10 if options.quick else 100)) * _MB
    requests = options.requests or (200 if options.quick else 2000)
    names, missing = available(names)
    contestants = _contestants(names, options.variant)
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        servers = {
            one.label: stack.enter_context(Server(one.server, files, body_bytes, one.options))
            for one in contestants
        }
        client = stack.enter_context(Client(files.certificate, body_bytes))
        total = options.rounds * sum(len(one.kinds) for one in contestants)
        for number in range(options.rounds):
            shift = number % len(contestants)
            for one in contestants[shift:] + contestants[:shift]:
                for kind in one.kinds:
                    step(len(rounds), total, f"{one.label}: {kind}")
                    count = requests if kind == "small" else 1
                    measured = _measure(servers[one.label], client, kind, count)
                    rounds.append({"round": number, "server": one.label, "kind": kind, **measured})
        step(total, total, "done")
    return {"missing": missing, **_figures(names, rounds, body_bytes, requests)}


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per 100 MB, downloads beside uploads."""
    groups = {
        "download (server sends)": figures["server_cpu_s_per_100mb"],
        "upload (server receives)": figures["upload_cpu_s_per_100mb"],
    }
    colours = {
        "quicbaton": style.OURS,
        COMPILED: style.OURS_TOO,
        "aioquic": style.BASELINE,
        "qh3": style.OTHER,
    }
    names = [name for name in SERVERS if name in figures["server_cpu_s_per_100mb"]]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [group + (index - (len(names) - 1) / 2) * width for group in range(len(groups))]
        bars = axes.bar(
            places,
            [values[name] for values in groups.values()],
            width * 0.92,
            label=name,
            color=colours[name],
        )
        axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("server CPU, seconds per 100 MB")
    axes.set_title("HTTP/3 with libcurl: CPU of the server process (less is better)", loc="left")
    axes.margins(y=0.25)
    axes.legend(frameon=False, ncols=4, loc="upper left")


def _contestants(names: list[str], variant: str | None) -> list[_Contestant]:
    fed = {"variant": variant} if variant else {}
    contestants = [_Contestant(n, n, options={} if n in _OURS else fed) for n in names]
    same_size = {"datagram-bytes": MAX_DATAGRAM_BYTES, **fed}
    contestants += [
        _Contestant(_same_size(name), name, ("download",), same_size)
        for name in names
        if name not in _OURS
    ]
    return contestants


def _same_size(name: str) -> str:
    return name if name in _OURS else f"{name}, {MAX_DATAGRAM_BYTES}-byte datagrams"


def _measure(server: Server, client: Client, kind: str, count: int) -> dict[str, float]:
    port = server.ready.port
    client.ask("open", port)
    before_s = server.cpu_s()
    answer = client.ask(kind, port, count)
    cpu_s = server.cpu_s() - before_s
    client.ask("close", port)
    expected = {"download": server.ready.body_sha256, "small": server.ready.small_sha256}
    if answer.sha256 != expected.get(kind, ""):
        raise RuntimeError(f"{kind} on port {port}: the body arrived altered")
    return {"cpu_s": cpu_s, "elapsed_s": answer.seconds}


def _figures(
    names: list[str], rounds: list[dict[str, Any]], body_bytes: int, requests: int
) -> dict[str, Any]:
    def median(label: str, kind: str, quantity: str) -> float:
        found: list[float] = [
            one[quantity] for one in rounds if (one["server"], one["kind"]) == (label, kind)
        ]
        return statistics.median(found)

    body_mb = body_bytes / _MB
    per_100_mb = 100 / body_mb
    return {
        "server_cpu_s_per_100mb": {
            name: round(median(name, "download", "cpu_s") * per_100_mb, 4) for name in names
        },
        "upload_cpu_s_per_100mb": {
            name: round(median(name, "upload", "cpu_s") * per_100_mb, 4) for name in names
        },
        "cpu_us_per_1kb_get": {
            name: round(median(name, "small", "cpu_s") / requests * 1e6, 1) for name in names
        },
        "goodput_mb_s": {
            name: round(body_mb / median(name, "download", "elapsed_s"), 1) for name in names
        },
        "upload_goodput_mb_s": {
            name: round(body_mb / median(name, "upload", "elapsed_s"), 1) for name in names
        },
        "server_cpu_s_per_100mb_same_datagram_size": {
            name: round(median(_same_size(name), "download", "cpu_s") * per_100_mb, 4)
            for name in names
        },
        "method": {
            "body_bytes": body_bytes,
            "requests_per_round": requests,
            "same_datagram_bytes": MAX_DATAGRAM_BYTES,
            "flow_control_limits": "the same for all servers",
            "congestion_control": "each library's default",
        },
        "rounds": rounds,
    }


def report(figures: dict[str, Any]) -> list[str]:
    return [f"{name} is missing: {reason}" for name, reason in figures["missing"].items()]


BENCHMARK = Benchmark(
    summary="server CPU per 100 MB and per request over HTTP/3 to libcurl",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
