"""One ASGI program on four servers: CPU per request and per byte, requests and megabytes a second.

The same plain program is served by `quicbaton serve`, by hypercorn and by peregrine, each by its
own command with one worker and uvloop. `quicbaton_events` is the same application over our events,
also by `quicbaton serve`: the difference is the cost of ASGI in our server. Beside it the program
in Starlette. One libcurl at a time talks HTTP/3 over the loopback to one server at a time. A round
visits every server once, in an order that turns, with a connection of its own for each of: 1 KB
requests one after the other, the same 32 at a time, a download, an upload, and a download behind a
link of 200 Mbit/s and 20 ms (`bench.link`). CPU is user and system of all processes of the server.
Reported are medians over the rounds.

With two workers, four libcurls in processes of their own download at once. The kernel or the server
chooses the worker of each connection. Downloads that do not end whole are counted. Resident memory
is read before and after 10,000 requests.

A peer that cannot be installed is printed as missing, with the reason.

Sampled at 32 requests at a time, our time goes: 37 % to the transport in Python (24 of them to
streams), 19 to ASGI, 18 to sendmsg, 7 to packet protection, 6 to HTTP/3, 6 to the asyncio layer and
the event loop. ASGI adds to events the beginning of a request (its scope, its task) and the
program's coroutine with its messages, about as much each. peregrine's whole request, in Swift,
costs about half of ours: to close that gap the transport has to become faster, not ASGI.
"""

import argparse
import datetime
import functools
import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import peers
from bench.asgi_servers import OURS, AsgiServer
from bench.bars import draw_groups
from bench.benchmark import Benchmark
from bench.client import Answer
from bench.contestants import missing_lines
from bench.processes import Client, Link
from bench.rounds import alternate, median
from bench.servers.application import SMALL_BYTES, make_body
from demo import style
from quicbaton.cli.certificate import CertificateFiles, write_self_signed

EVENTS = "quicbaton_events"
SERVERS = (OURS, EVENTS, "hypercorn", "peregrine")

#: Of the link.
RTT_MS, MBIT = 20, 200

_MB = 1_000_000
_LINK = "download_link"
_KINDS = ("small", "many", "download", "upload", _LINK)
_PLAIN = "plain"
_STARLETTE = "starlette"
_PROGRAMS = {
    _PLAIN: "bench.servers.asgi_program:application",
    _STARLETTE: "bench.servers.starlette_program:application",
}
_EVENTS_PROGRAM = "bench.servers.events_program:Events"
_WORKERS = 2
_CLIENTS = 4
#: Targets: relative to our events per request; to hypercorn in everything.
_OF_EVENTS = 1.35
_OF_HYPERCORN = 0.25
_COLOURS = {
    OURS: style.OURS,
    EVENTS: style.OURS_TOO,
    "hypercorn": style.BASELINE,
    "peregrine": style.OTHER,
}
_PER_REQUEST = ("cpu_us_per_1kb_get", "cpu_us_per_1kb_get_32_streams")
_PER_100_MB = ("cpu_s_per_100mb_down", "cpu_s_per_100mb_up")


@dataclass(frozen=True)
class _Contestant:
    """A server with a program."""

    server: str
    variant: str

    def __str__(self) -> str:
        return f"{self.server}, {self.variant}"

    @property
    def program(self) -> str:
        return _EVENTS_PROGRAM if self.server == EVENTS else _PROGRAMS[self.variant]


@dataclass(frozen=True)
class _Sizes:
    body_bytes: int
    requests: int
    memory_requests: int

    def count(self, kind: str) -> int:
        return self.requests if kind in ("small", "many") else 1

    def sha256(self, kind: str) -> str:
        return _sha256(self.body_bytes if kind == "download" else SMALL_BYTES)


@functools.cache
def _sha256(size: int) -> str:
    return hashlib.sha256(make_body(size)).hexdigest()


class _Stage:
    """Starts servers, in folders of their own."""

    def __init__(
        self,
        folder: Path,
        files: CertificateFiles,
        bin_folders: Mapping[str, Path],
        body_bytes: int,
    ) -> None:
        self.files = files
        self._folder = folder
        self._bin_folders = bin_folders
        self._environment = {"BENCH_BODY_BYTES": str(body_bytes)}
        self._started = 0

    def start(self, one: _Contestant, workers: int = 0) -> AsgiServer:
        self._started += 1
        folder = self._folder / str(self._started)  # a short name: sockets lie in it
        return AsgiServer(
            one.server,
            one.program,
            folder,
            self.files,
            self._bin_folders,
            self._environment,
            workers,
        )


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="body size in MB (100; quick: 5)")
    parser.add_argument("--requests", type=int, default=0, help="1 KB requests (2000; quick: 200)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="a comma-separated choice")
    parser.add_argument("--plain-only", action="store_true", help="without Starlette, for trials")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers in alternating rounds."""
    names = options.servers.split(",")
    if unknown := set(names) - set(SERVERS):
        raise SystemExit(f"no such server: {', '.join(sorted(unknown))}")
    sizes = _Sizes(
        body_bytes=(options.mb or (5 if options.quick else 100)) * _MB,
        requests=options.requests or (200 if options.quick else 2000),
        memory_requests=500 if options.quick else 10_000,
    )
    rounds = 1 if options.quick else options.rounds
    step(0, 1, "installing peers")
    bin_folders, missing = peers.installed()
    contestants = _contestants(names, missing, plain_only=options.plain_only)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        stage = _Stage(folder, files, bin_folders, sizes.body_bytes)
        measured, memory = _measure_all(stage, contestants, sizes, rounds, step)
        crowds = {
            one.server: _measure_two_workers(stage, one, sizes)
            for one in contestants
            if one.variant == _PLAIN and one.server != EVENTS
        }
    return _figures(contestants, measured, memory, crowds, missing, sizes)


def _contestants(
    names: list[str], missing: Mapping[str, str], *, plain_only: bool
) -> list[_Contestant]:
    there = [name for name in names if name not in missing]
    contestants = [_Contestant(name, _PLAIN) for name in there]
    if not plain_only:
        contestants += [_Contestant(name, _STARLETTE) for name in there if name != EVENTS]
    return contestants


def _measure_all(
    stage: _Stage,
    contestants: list[_Contestant],
    sizes: _Sizes,
    rounds: int,
    step: Callable[[int, int, str], None],
) -> tuple[list[dict[str, Any]], dict[_Contestant, dict[str, float]]]:
    measured: list[dict[str, Any]] = []
    memory: dict[_Contestant, dict[str, float]] = {}
    with ExitStack() as stack:
        client = stack.enter_context(Client(stage.files.certificate, sizes.body_bytes))
        servers: dict[_Contestant, AsgiServer] = {}
        for one in contestants:
            servers[one] = stack.enter_context(stage.start(one))
            servers[one].wait_until_open(client)
            memory[one] = _measure_memory(servers[one], client, sizes.memory_requests)
        for number, one, kind in alternate(rounds, contestants, _KINDS, step):
            figures = _measure(servers[one], client, kind, sizes)
            where = {"round": number, "server": one.server, "variant": one.variant}
            measured.append({**where, "kind": kind, **figures})
        step(0, 1, "two workers")
    return measured, memory


def _measure_memory(server: AsgiServer, client: Client, count: int) -> dict[str, float]:
    """Resident MB around so many small requests, before large bodies come. The program's own body,
    whole and in chunks, is in both."""
    before = server.resident_mb()
    client.ask("open_many", server.port)
    client.ask("many", server.port, count)
    client.ask("close_many", server.port)
    return {"before": round(before, 1), "after": round(server.resident_mb(), 1)}


def _measure(server: AsgiServer, client: Client, kind: str, sizes: _Sizes) -> dict[str, float]:
    if kind == _LINK:
        with Link(server.port, delay_ms=RTT_MS / 2, mbit=MBIT) as link:
            return _measure_at(link.port, server, client, "download", sizes)
    return _measure_at(server.port, server, client, kind, sizes)


def _measure_at(
    port: int, server: AsgiServer, client: Client, kind: str, sizes: _Sizes
) -> dict[str, float]:
    many = "_many" if kind == "many" else ""
    client.ask(f"open{many}", port)
    before_s = server.cpu_s()
    answer = client.ask(kind, port, sizes.count(kind))
    cpu_s = server.cpu_s() - before_s
    client.ask(f"close{many}", port)
    if kind != "upload" and answer.sha256 != sizes.sha256(kind):
        raise RuntimeError(f"{kind} on port {port}: the body arrived altered")
    return {"cpu_s": cpu_s, "elapsed_s": answer.seconds}


def _measure_two_workers(stage: _Stage, one: _Contestant, sizes: _Sizes) -> dict[str, Any]:
    """The downloads of a few clients from two workers: their rate, and how many are whole."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(stage.files.certificate, sizes.body_bytes))
            for _ in range(_CLIENTS)
        ]
        server = stack.enter_context(stage.start(one, workers=_WORKERS))
        server.wait_until_open(clients[0])
        downloads, seconds = _all_at_once(clients, server.port, "open", "download", 1)
        whole = sum(answer.sha256 == sizes.sha256("download") for answer in downloads)
        answers, many_s = _all_at_once(
            clients, server.port, "open_many", "many", sizes.requests // _CLIENTS
        )
        answered = sum(not answer.error for answer in answers)
        return {
            "downloads": _CLIENTS,
            "whole": whole,
            "goodput_mb_s": round(whole * sizes.body_bytes / _MB / seconds, 1),
            "requests_per_s": round(answered * (sizes.requests // _CLIENTS) / many_s),
            "first_error": next((one.error for one in [*downloads, *answers] if one.error), ""),
        }


def _all_at_once(
    clients: list[Client], port: int, opening: str, operation: str, count: int
) -> tuple[list[Answer], float]:
    """Have all clients do something together; what failed is an answer with an error."""
    opened = [client.try_to(opening, port) for client in clients]
    begun = time.monotonic()
    ready = [client for client, answer in zip(clients, opened, strict=True) if not answer.error]
    for client in ready:
        client.tell(operation, port, count)
    answers = [client.answer() for client in ready]
    seconds = time.monotonic() - begun
    return [*answers, *(answer for answer in opened if answer.error)], seconds


def _figures(
    contestants: list[_Contestant],
    measured: list[dict[str, Any]],
    memory: Mapping[_Contestant, Mapping[str, float]],
    crowds: Mapping[str, dict[str, Any]],
    missing: Mapping[str, str],
    sizes: _Sizes,
) -> dict[str, Any]:
    def of(variant: str) -> dict[str, Any]:
        names = [one.server for one in contestants if one.variant == variant]

        def each(kind: str, quantity: str, figure: Callable[[float], float]) -> dict[str, float]:
            return {
                name: figure(median(measured, quantity, server=name, variant=variant, kind=kind))
                for name in names
            }

        def cpu_us(seconds: float) -> float:
            return round(seconds / sizes.requests * 1e6, 1)

        def cpu_s(seconds: float) -> float:
            return round(seconds * 100 * _MB / sizes.body_bytes, 4)

        def per_s(seconds: float) -> float:
            return round(sizes.requests / seconds)

        def mb_s(seconds: float) -> float:
            return round(sizes.body_bytes / _MB / seconds, 1)

        return {
            "cpu_us_per_1kb_get": each("small", "cpu_s", cpu_us),
            "cpu_us_per_1kb_get_32_streams": each("many", "cpu_s", cpu_us),
            "requests_per_s": each("small", "elapsed_s", per_s),
            "requests_per_s_32_streams": each("many", "elapsed_s", per_s),
            "cpu_s_per_100mb_down": each("download", "cpu_s", cpu_s),
            "cpu_s_per_100mb_up": each("upload", "cpu_s", cpu_s),
            "goodput_mb_s": each("download", "elapsed_s", mb_s),
            "upload_goodput_mb_s": each("upload", "elapsed_s", mb_s),
            f"cpu_s_per_100mb_down_rtt_{RTT_MS}ms": each(_LINK, "cpu_s", cpu_s),
            f"goodput_mb_s_rtt_{RTT_MS}ms": each(_LINK, "elapsed_s", mb_s),
            "resident_mb": {
                one.server: memory[one] for one in contestants if one.variant == variant
            },
        }

    plain = of(_PLAIN)
    return {
        **plain,
        "two_workers": dict(crowds),
        "starlette": of(_STARLETTE),
        "missing": dict(missing),
        "targets": _targets(plain),
        "method": {
            "body_bytes": sizes.body_bytes,
            "requests_per_round": sizes.requests,
            "requests_before_memory_is_read": sizes.memory_requests,
            "event_loop": "uvloop",
            "peers": [peer.requirement for peer in peers.PEERS],
        },
        "rounds": measured,
    }


def _targets(plain: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Our figure over that of another, with what it may be at most."""
    return [
        {
            "figure": figure,
            "over": other,
            "ratio": round(plain[figure][OURS] / plain[figure][other], 3),
            "at_most": at_most,
        }
        for other, at_most, figures in (
            (EVENTS, _OF_EVENTS, _PER_REQUEST),
            ("hypercorn", _OF_HYPERCORN, (*_PER_REQUEST, *_PER_100_MB)),
            ("peregrine", None, (*_PER_REQUEST, *_PER_100_MB)),
        )
        for figure in figures
        if {OURS, other} <= plain[figure].keys()
    ]


def report(figures: dict[str, Any]) -> list[str]:
    """The targets that were reached, the distance to the fastest, and missing servers."""
    lines = missing_lines(figures)
    for one in figures["targets"]:
        if one["at_most"] is None:
            verdict = "the distance"
        else:
            met = "met" if one["ratio"] <= one["at_most"] else "missed"
            verdict = f"{met}: at most {one['at_most']}"
        lines.append(f"{one['figure']}: {one['ratio']} of {one['over']}'s ({verdict})")
    for name, crowd in figures["two_workers"].items():
        whole = f"{crowd['whole']} of {crowd['downloads']} downloads whole"
        lines.append(f"two workers, {name}: {whole} {crowd['first_error']}".rstrip())
    return lines


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per request, one at a time beside 32."""
    groups = {
        "one stream": figures["cpu_us_per_1kb_get"],
        "32 streams": figures["cpu_us_per_1kb_get_32_streams"],
    }
    draw_groups(axes, groups, _COLOURS, numbers="%.0f")
    axes.set_ylabel("server CPU, µs per GET of 1 KB")
    axes.set_title("One ASGI program over HTTP/3: CPU per request (less is better)", loc="left")


BENCHMARK = Benchmark(
    summary="one ASGI program over HTTP/3: CPU per request and per byte, beside other servers",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
