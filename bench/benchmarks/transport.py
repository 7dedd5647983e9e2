"""CPU of the server process per byte and per request, beside aioquic, qh3 and peregrine.

One libcurl at a time talks HTTP/3 over the loopback to one server at a time; all servers stay up
and idle otherwise. In a round every server has each of: one download, one upload, a series of 1 KiB
requests, over a connection of its own, in an order that turns from round to round. The connection
is opened before the server's CPU clock is read, so handshakes are not in these figures (the
`handshake` benchmark has them). Reported are medians over the rounds. `link` has downloads behind a
link.

aioquic and qh3 run as they come, which means datagrams of 1200 and 1280 bytes; quicbaton finds the
path's limit by itself. Part of the difference is that alone, so a second set of figures has both
set by hand to the size that quicbaton reaches. `quicbaton_compiled` is ours on compiled modules.
peregrine, a server in Swift, runs the same application as an ASGI program (`bench.contestants`).
"""

import argparse
import datetime
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import contestants
from bench.bars import draw_groups
from bench.benchmark import Benchmark
from bench.contestants import Contestant
from bench.peers import COMPILED, PEREGRINE
from bench.processes import Client
from bench.rounds import alternate, median
from quicbaton.cli.certificate import write_self_signed
from quicbaton.limits import MAX_DATAGRAM_BYTES

SERVERS = ("quicbaton", COMPILED, "aioquic", "qh3", PEREGRINE.name)
#: Those whose datagrams are also set to another size than they have by themselves.
_SIZED = ("aioquic", "qh3")

_MB = 1_000_000
_KINDS = ("download", "upload", "small")


@dataclass(frozen=True)
class _Configuration:
    """A server in one configuration; `label` names it in the raw rounds."""

    label: str
    server: str
    kinds: tuple[str, ...] = _KINDS
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.label


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
    step(0, 1, "starting servers")
    names, missing = contestants.choose(options.servers)
    body_bytes = (options.mb or (10 if options.quick else 100)) * _MB
    requests = options.requests or (200 if options.quick else 2000)
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        servers = {
            one: contestants.enter(stack, one.server, folder, files, body_bytes, one.options)
            for one in _configurations(names, options.variant)
        }
        client = stack.enter_context(Client(files.certificate, body_bytes))
        for number, one, kind in alternate(options.rounds, list(servers), _KINDS, step):
            if kind in one.kinds:
                count = requests if kind == "small" else 1
                measured = _measure(servers[one], client, kind, count)
                rounds.append({"round": number, "server": one.label, "kind": kind, **measured})
    return {"missing": missing, **_figures(names, rounds, body_bytes, requests)}


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per 100 MB, downloads beside uploads."""
    groups = {
        "download (server sends)": figures["server_cpu_s_per_100mb"],
        "upload (server receives)": figures["upload_cpu_s_per_100mb"],
    }
    draw_groups(axes, groups, contestants.COLOURS)
    axes.set_ylabel("server CPU, seconds per 100 MB")
    axes.set_title("HTTP/3 with libcurl: CPU of the server process (less is better)", loc="left")


def _configurations(names: list[str], variant: str | None) -> list[_Configuration]:
    fed = {"variant": variant} if variant else {}
    same_size = {"datagram-bytes": MAX_DATAGRAM_BYTES, **fed}
    return [
        *(_Configuration(name, name, options=fed if name in _SIZED else {}) for name in names),
        *(
            _Configuration(_same_size(name), name, ("download",), same_size)
            for name in names
            if name in _SIZED
        ),
    ]


def _same_size(name: str) -> str:
    return f"{name}, {MAX_DATAGRAM_BYTES}-byte datagrams" if name in _SIZED else name


def _measure(server: Contestant, client: Client, kind: str, count: int) -> dict[str, float]:
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
    body_mb = body_bytes / _MB

    def each(kind: str, quantity: str, figure: Callable[[float], float]) -> dict[str, float]:
        return {name: figure(median(rounds, quantity, server=name, kind=kind)) for name in names}

    def per_100_mb(cpu_s: float) -> float:
        return round(cpu_s * 100 / body_mb, 4)

    def per_get_us(cpu_s: float) -> float:
        return round(cpu_s / requests * 1e6, 1)

    def mb_s(elapsed_s: float) -> float:
        return round(body_mb / elapsed_s, 1)

    return {
        "server_cpu_s_per_100mb": each("download", "cpu_s", per_100_mb),
        "upload_cpu_s_per_100mb": each("upload", "cpu_s", per_100_mb),
        "cpu_us_per_1kb_get": each(
            "small", "cpu_s", lambda cpu_s: round(cpu_s / requests * 1e6, 1)
        ),
        "goodput_mb_s": each("download", "elapsed_s", mb_s),
        "upload_goodput_mb_s": each("upload", "elapsed_s", mb_s),
        "server_cpu_s_per_100mb_same_datagram_size": {
            name: per_100_mb(median(rounds, "cpu_s", server=_same_size(name), kind="download"))
            for name in names
            if name != PEREGRINE.name
        },
        "method": {
            "body_bytes": body_bytes,
            "requests_per_round": requests,
            "same_datagram_bytes": MAX_DATAGRAM_BYTES,
            "flow_control_limits": "the same for all but peregrine, which has its own",
            "congestion_control": "each library's default",
            "peregrine": PEREGRINE.requirement,
        },
        "rounds": rounds,
    }


def report(figures: dict[str, Any]) -> list[str]:
    """What is missing, and our CPU over peregrine's."""
    return [
        *contestants.missing_lines(figures),
        *contestants.ratio_lines("GET of 1 KB, CPU", figures["cpu_us_per_1kb_get"]),
        *contestants.ratio_lines("download, CPU", figures["server_cpu_s_per_100mb"]),
        *contestants.ratio_lines("upload, CPU", figures["upload_cpu_s_per_100mb"]),
    ]


BENCHMARK = Benchmark(
    summary="server CPU per 100 MB and per request over HTTP/3 to libcurl",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
