"""CPU of the server process per full handshake and first request, beside aioquic and qh3.

libcurl opens a connection, gets one KiB over HTTP/3 and closes it, again and again. Every handshake
is a full one, with one ECDSA certificate for all servers. The servers are those of the `transport`
benchmark: a program on each library's asyncio server, as it comes. A round visits every server
once, in an order that turns from round to round. Reported are medians over the rounds. They include
the cost of closing and forgetting the connection. `quicbaton_compiled` is ours on compiled modules.
The same is measured behind a round trip of 20 ms, where the time says how many of them are waited
for.

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
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import contestants
from bench.benchmark import Benchmark
from bench.contestants import Contestant
from bench.file_server import FileServer
from bench.peers import COMPILED
from bench.processes import Client, Link
from bench.rounds import alternate, median
from bench.servers.application import SMALL_BYTES, Ready
from quicbaton.cli.certificate import CertificateFiles, write_self_signed

SERVERS = ("quicbaton", COMPILED, "aioquic", "qh3")
#: Of the link.
RTT_MS, MBIT = 20, 200
_COMMAND = "quicbaton_command"
_LOOPBACK, _LINK = "loopback", f"behind {RTT_MS} ms"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--handshakes", type=int, default=0, help="per round (300; quick: 50)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers in alternating rounds."""
    count = options.handshakes or (50 if options.quick else 300)
    step(0, 1, "starting servers")
    names, missing = contestants.available(SERVERS)
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        client = stack.enter_context(Client(files.certificate, SMALL_BYTES))
        servers = {
            name: contestants.enter(stack, name, folder, files, SMALL_BYTES) for name in names
        }
        servers[_COMMAND] = _command(stack, folder, files)
        links = {
            name: stack.enter_context(Link(server.ready.port, delay_ms=RTT_MS / 2, mbit=MBIT))
            for name, server in servers.items()
        }
        for server in servers.values():
            client.ask("connect", server.ready.port, 10)  # what is loaded once is no handshake's
        for number, name, way in alternate(options.rounds, [*servers], (_LOOPBACK, _LINK), step):
            port = links[name].port if way == _LINK else servers[name].ready.port
            measured = _measure(servers[name], port, client, _count(count, way))
            rounds.append({"round": number, "server": name, "way": way, **measured})
    return {"missing": missing, **_figures([*servers], rounds, count)}


def _command(stack: ExitStack, folder: Path, files: CertificateFiles) -> Contestant:
    """`quicbaton serve` of a folder with one file."""
    served = folder / "files"
    served.mkdir()
    body = os.urandom(SMALL_BYTES)
    (served / "small").write_bytes(body)
    pair = ("--cert", str(files.certificate), "--key", str(files.key))
    command = stack.enter_context(FileServer(folder, served, *pair))
    digest = contestants.sha256(body)
    return Contestant(Ready(command.port, digest, digest), command.cpu_s)


def _count(count: int, way: str) -> int:
    """Behind the link a handshake takes three round trips or more: a fifth of them is enough."""
    return max(count // 5, 1) if way == _LINK else count


def _measure(server: Contestant, port: int, client: Client, count: int) -> dict[str, float]:
    before_s = server.cpu_s()
    answer = client.ask("connect", port, count)
    cpu_s = server.cpu_s() - before_s
    if answer.sha256 != server.ready.small_sha256:
        raise RuntimeError(f"port {port}: the body arrived altered")
    return {"cpu_s": cpu_s, "elapsed_s": answer.seconds}


def _figures(names: list[str], rounds: list[dict[str, Any]], count: int) -> dict[str, Any]:
    def each(way: str, quantity: str) -> dict[str, float]:
        return {
            name: round(
                median(rounds, quantity, server=name, way=way) / _count(count, way) * 1e6, 1
            )
            for name in names
        }

    return {
        "handshake_cpu_us": each(_LOOPBACK, "cpu_s"),
        "handshake_elapsed_us": each(_LOOPBACK, "elapsed_s"),
        f"handshake_cpu_us_rtt_{RTT_MS}ms": each(_LINK, "cpu_s"),
        f"handshake_elapsed_us_rtt_{RTT_MS}ms": each(_LINK, "elapsed_s"),
        "method": {
            "handshakes_per_round": count,
            "handshakes_per_round_behind_the_link": _count(count, _LINK),
            "first_request": "GET of 1 KiB, HTTP/3",
        },
        "rounds": rounds,
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per handshake."""
    names = [name for name in SERVERS if name in figures["handshake_cpu_us"]]
    values = [figures["handshake_cpu_us"][name] / 1000 for name in names]
    bars = axes.bar(names, values, 0.6, color=[contestants.COLOURS[name] for name in names])
    axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("server CPU, ms")
    axes.set_title("A full handshake and the first GET, libcurl (less is better)", loc="left")
    axes.margins(y=0.2)


BENCHMARK = Benchmark(
    summary="server CPU per full handshake and first GET over HTTP/3 to libcurl",
    configure=configure,
    run=run,
    plot=plot,
    report=contestants.missing_lines,
)
