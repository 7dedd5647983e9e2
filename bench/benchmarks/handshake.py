"""CPU of the server process per full handshake and first request, beside aioquic and qh3.

libcurl opens a connection, gets one KiB over HTTP/3 and closes it, again and again. Every handshake
is a full one, with one ECDSA certificate for all servers. The servers are those of the `transport`
benchmark: a program on each library's asyncio server, as it comes. A round visits every server
once, in an order that turns from round to round. Reported are medians over the rounds. They include
the cost of closing and forgetting the connection. `quicbaton_compiled` is ours on compiled modules.

`quicbaton_command` is `quicbaton serve`, which serves a file instead and sets up the garbage
collector, as a program of one's own may do by `quicbaton.service.host.tune_collector`. Its figure
includes its access log, a line for each request, which is on by default; here it goes into a file.

The way to qh3's, whose TLS and packets are Rust. Sampled, our time goes: 30 % to aioquic's packets
and frames, of which 16 to CRYPTO frames (libcurl cuts its ClientHello into some 30), 12 to TLS
messages and 5 to key setup; 21 % to sendmsg, in seven datagrams; 20 % to promotion, which builds
the connection, its session and its first train; 13 % to waiting in epoll; 6 % to reading the
socket; 6 % to the first packets of the connection. The cryptographic primitives are some 3 %. So a
half is TLS and the handshake's packets in Python. Three things would close the gap: a TLS of our
own on the primitives, CRYPTO frames put together once, and a first flight that leaves as one train.
"""

import argparse
import datetime
import hashlib
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from bench.benchmark import Benchmark
from bench.file_server import FileServer
from bench.peers import COMPILED, available
from bench.processes import Client, Server
from bench.servers.application import SMALL_BYTES
from demo import style
from quicbaton.cli.certificate import write_self_signed

SERVERS = ("quicbaton", COMPILED, "aioquic", "qh3")
_COMMAND = "quicbaton_command"
_COLOURS = {
    "quicbaton": style.OURS,
    COMPILED: style.OURS_TOO,
    "aioquic": style.BASELINE,
    "qh3": style.OTHER,
}


class _Contestant(Protocol):
    """A server process."""

    def cpu_s(self) -> float: ...


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--handshakes", type=int, default=0, help="per round (300; quick: 50)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers in alternating rounds."""
    count = options.handshakes or (50 if options.quick else 300)
    servers, missing = available(SERVERS)
    names = [*servers, _COMMAND]
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        client = stack.enter_context(Client(files.certificate, SMALL_BYTES))
        contestants: dict[str, tuple[_Contestant, int, str]] = {}
        for name in servers:
            server = stack.enter_context(Server(name, files, SMALL_BYTES, {}))
            contestants[name] = (server, server.ready.port, server.ready.small_sha256)
        served = folder / "files"
        served.mkdir()
        body = os.urandom(SMALL_BYTES)
        (served / "small").write_bytes(body)
        pair = ("--cert", str(files.certificate), "--key", str(files.key))
        command = stack.enter_context(FileServer(folder, served, *pair))
        contestants[_COMMAND] = (command, command.port, hashlib.sha256(body).hexdigest())
        for _, port, _ in contestants.values():
            client.ask("connect", port, 10)  # what is loaded once is no handshake's
        total = options.rounds * len(names)
        for number in range(options.rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                step(len(rounds), total, name)
                measured = _measure(contestants[name], client, count)
                rounds.append({"round": number, "server": name, **measured})
        step(total, total, "done")
    return {"missing": missing, **_figures(names, rounds, count)}


def _measure(
    contestant: tuple[_Contestant, int, str], client: Client, count: int
) -> dict[str, float]:
    server, port, sha256 = contestant
    before_s = server.cpu_s()
    answer = client.ask("connect", port, count)
    cpu_s = server.cpu_s() - before_s
    if answer.sha256 != sha256:
        raise RuntimeError(f"port {port}: the body arrived altered")
    return {"cpu_s": cpu_s, "elapsed_s": answer.seconds}


def _figures(names: list[str], rounds: list[dict[str, Any]], count: int) -> dict[str, Any]:
    def median(name: str, quantity: str) -> float:
        found: list[float] = [one[quantity] for one in rounds if one["server"] == name]
        return round(statistics.median(found) / count * 1e6, 1)

    return {
        "handshake_cpu_us": {name: median(name, "cpu_s") for name in names},
        "handshake_elapsed_us": {name: median(name, "elapsed_s") for name in names},
        "method": {"handshakes_per_round": count, "first_request": "GET of 1 KiB, HTTP/3"},
        "rounds": rounds,
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per handshake."""
    names = [name for name in SERVERS if name in figures["handshake_cpu_us"]]
    values = [figures["handshake_cpu_us"][name] / 1000 for name in names]
    bars = axes.bar(names, values, 0.6, color=[_COLOURS[name] for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("server CPU, ms")
    axes.set_title("A full handshake and the first GET, libcurl (less is better)", loc="left")
    axes.margins(y=0.2)


def report(figures: dict[str, Any]) -> list[str]:
    return [f"{name} is missing: {reason}" for name, reason in figures["missing"].items()]


BENCHMARK = Benchmark(
    summary="server CPU per full handshake and first GET over HTTP/3 to libcurl",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
