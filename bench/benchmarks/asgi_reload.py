"""How much is still whole after a reload: downloads, WebSockets and server-sent events of one
program.

One worker of `quicbaton serve`, hypercorn and peregrine each runs the same ASGI program, with the
server's default options. Clients open as many downloads, WebSockets and streams of events, each
over a connection of its own. When all have begun, every server is told to reload: ours by
`quicbaton reload`, hypercorn and peregrine by SIGHUP. Downloads and events take longer than the
time that the peers allow running requests by default (3 s hypercorn, 10 s peregrine), and than the
deadline of our service (60 s; `--quick` is below that). Whole is

* a download whose bytes and length are right;
* a WebSocket that echoes every message on the same connection until the downloads have ended;
* a stream of events whose numbers have no gap, with its last event.

A new process must answer new clients that come in between: a server that replaces its workers only
when all clients have gone has cut nothing, and reloaded nothing.

WebSockets go over HTTP/3 (RFC 9220) where a server speaks that, else over TLS and HTTP/1.1. The
client is aioquic with wsproto. A peer that cannot be installed is printed as missing.
"""

import argparse
import datetime
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench import contestants, peers
from bench.asgi_servers import OURS, AsgiServer
from bench.bars import draw_groups
from bench.benchmark import Benchmark
from bench.processes import Client, Program
from bench.reload_client import Report
from demo import style
from quicbaton.cli.certificate import write_self_signed

SERVERS = (OURS, "hypercorn", "peregrine")

_PROGRAM = "bench.servers.reload_program:application"
_OF_EACH = 12
#: How often a new client comes after a reload was asked for, until a new process answers it, and
#: for what share of the downloads at most.
_NEW_CLIENT_EVERY_S = 2.0
_MEANWHILE = 0.6
_KINDS = ("downloads", "websockets", "events")
_COLOURS = {"downloads": style.OURS, "websockets": style.OTHER, "events": style.BASELINE}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--seconds", type=float, default=0.0, help="of a download (75; quick: 13)")
    parser.add_argument("--workers", type=int, default=1, help="of each server (1)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Reload one server after the other, so that none waits for another's handshakes."""
    seconds = options.seconds or (13.0 if options.quick else 75.0)
    step(0, 1, "installing peers")
    bin_folders, missing = peers.installed()
    names = [name for name in SERVERS if name not in missing]
    reports: dict[str, Report] = {}
    answering: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        looking = stack.enter_context(Client(files.certificate, 0))
        for number, name in enumerate(names):
            step(number, len(names), name)
            with AsgiServer(
                name, _PROGRAM, folder / str(number), files, bin_folders, {}, options.workers
            ) as server:
                server.wait_until_open(looking)
                before = _process_of(looking, server)
                reports[name], meanwhile = _reload(server, looking, before, seconds)
                answering[name] = (
                    "nobody" if not meanwhile else "old" if meanwhile == before else "new"
                )
        step(len(names), len(names), "done")
    return {
        "whole": {
            name: {kind: getattr(one, kind) for kind in _KINDS} for name, one in reports.items()
        },
        "of_each": _OF_EACH,
        "seconds": seconds,
        "workers": options.workers,
        "websockets_over": {name: one.websockets_over for name, one in reports.items()},
        "failures": {name: one.failures for name, one in reports.items()},
        "new_client_answered_by": answering,
        "missing": missing,
        "peers": [peer.requirement for peer in peers.PEERS],
    }


def _process_of(looking: Client, server: AsgiServer) -> str:
    """The process that answers a new client; "" if none does."""
    answer = looking.try_to("open", server.port)
    looking.ask("close", server.port)
    return answer.sha256


def _reload(server: AsgiServer, looking: Client, before: str, seconds: float) -> tuple[Report, str]:
    """Reload when all streams have begun. What has become of them when all have ended, and who
    answers the last new client in between; `before` is who did so before."""
    with Program("bench.reload_client", str(server.port), str(seconds), str(_OF_EACH)) as client:
        client.read_line()
        server.begin_reload()
        deadline = time.monotonic() + _MEANWHILE * seconds
        while True:
            time.sleep(_NEW_CLIENT_EVERY_S)
            meanwhile = _process_of(looking, server)
            if meanwhile not in ("", before) or time.monotonic() > deadline:
                break
        report = msgspec.json.decode(client.read_line(), type=Report)
        server.end_reload()
        return report, meanwhile


def report(figures: dict[str, Any]) -> list[str]:
    """The streams that were whole, and why the others were not."""
    lines = contestants.missing_lines(figures)
    for name, whole in figures["whole"].items():
        counts = ", ".join(f"{whole[kind]} of {figures['of_each']} {kind}" for kind in _KINDS)
        over = figures["websockets_over"][name]
        lines.append(f"{name}: whole are {counts} (WebSockets by {over})")
        lines.append(f"  a new client in between: {figures['new_client_answered_by'][name]}")
        lines += [f"  {failure}" for failure in figures["failures"][name]]
    return lines


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw how many of each kind stayed whole, by server."""
    draw_groups(axes, figures["whole"], _COLOURS, numbers="%g")
    axes.set_ylim(0, figures["of_each"] * 1.25)
    axes.set_ylabel(f"whole, of {figures['of_each']}")
    axes.set_title(
        f"Through one reload, {figures['seconds']:.0f} s long (more is better)", loc="left"
    )


BENCHMARK = Benchmark(
    summary="downloads, WebSockets and events through a reload: which stay whole",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
