"""CPU of the server process where many ask at once, and how fairly they are served.

The same number of bytes goes to one libcurl connection, to 20 and to 500 over the loopback, with
all connections open before the server's CPU clock is read. As many come from 20 connections. Then a
thousand connections make small requests, each one at a time. `finish_s` has when the fastest tenth
of 500 downloads had ended, and the last one: all began at once and are of one size, so the closer
the fairer. The figures of the first server also stand by themselves.
"""

import argparse
import datetime
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench import contestants
from bench.bars import draw_groups
from bench.benchmark import Benchmark
from bench.contestants import Contestant
from bench.curl_crowd import Outcome
from bench.peers import COMPILED, PEREGRINE
from bench.processes import Program
from bench.rounds import alternate, median
from bench.servers.application import make_body
from quicbaton.cli.certificate import write_self_signed

SERVERS = ("quicbaton", COMPILED, "qh3", PEREGRINE.name)
COUNTS = {"one": 1, "twenty": 20, "five_hundred": 500}
UPLOADS = 20
CLIENTS = 1000
#: The last of 500 downloads at once may end so much later than the fastest tenth.
FAIR_WITHIN = 0.25

#: Who cannot do a kind, and what happens: its clients would wait for ever.
_UNABLE = {("qh3", "small"): "of 20,000 requests of a thousand clients some are never answered"}

_MB = 1_000_000
_KINDS = (*COUNTS, "upload", "small")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="in all, in MB (100; quick: 25)")
    parser.add_argument("--requests", type=int, default=0, help="small ones (20,000; quick: 4,000)")
    parser.add_argument("--servers", default=",".join(SERVERS), help="a comma-separated choice")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers in alternating rounds."""
    step(0, 1, "starting servers")
    names, missing = contestants.choose(options.servers)
    body_bytes = (options.mb or (25 if options.quick else 100)) * _MB
    requests = options.requests or (4_000 if options.quick else 20_000)
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        servers = {
            name: contestants.enter(stack, name, folder, files, body_bytes) for name in names
        }
        crowd = stack.enter_context(_Crowd(str(files.certificate)))
        for number, name, kind in alternate(options.rounds, names, _KINDS, step):
            if (name, kind) in _UNABLE:
                missing[f"{name}, {kind}"] = _UNABLE[name, kind]
                continue
            measured = _measure(servers[name], crowd, kind, body_bytes, requests)
            rounds.append({"round": number, "server": name, "kind": kind, **measured})
    return {"missing": missing, **_figures(names, rounds, body_bytes, requests)}


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw CPU per 100 MB by the number of downloads."""
    by_server = figures["by_server"]
    groups = {
        f"{count} at once": {
            name: values["cpu_s_per_100mb"][kind] for name, values in by_server.items()
        }
        for kind, count in COUNTS.items()
    }
    draw_groups(axes, groups, contestants.COLOURS)
    axes.set_ylabel("server CPU, seconds per 100 MB")
    axes.set_title("Downloads at once, of the same bytes in all (less is better)", loc="left")


def report(figures: dict[str, Any]) -> list[str]:
    """What a crowd costs over one, and who waits; our CPU over peregrine's."""
    cpu, finish = figures["cpu_s_per_100mb"], figures["finish_s"]
    late = finish["max"] / finish["p10"] - 1
    by_server = figures["by_server"]
    lines = [
        *contestants.missing_lines(figures),
        f"CPU per byte of 500 downloads over one: {cpu['five_hundred'] / cpu['one']:.2f}",
        f"the last of 500 ends {late:.0%} after the fastest tenth ({FAIR_WITHIN:.0%} is fair)",
    ]
    key = "cpu_us_per_small_request"
    gets = {name: values[key] for name, values in by_server.items() if key in values}
    lines += contestants.ratio_lines(f"GET of 1 KB, {CLIENTS} clients, CPU", gets)
    for kind, count in COUNTS.items():
        downloads = {name: values["cpu_s_per_100mb"][kind] for name, values in by_server.items()}
        lines += contestants.ratio_lines(f"download, {count} at once, CPU", downloads)
    uploads = {name: values["cpu_s_per_100mb_up"] for name, values in by_server.items()}
    lines += contestants.ratio_lines(f"upload, {UPLOADS} at once, CPU", uploads)
    return lines


class _Crowd(Program):
    def __init__(self, ca_file: str) -> None:
        super().__init__("bench.curl_crowd", ca_file)

    def ask(self, *words: str | int) -> Outcome:
        self.write_line(" ".join(map(str, words)))
        outcome = msgspec.json.decode(self.read_line(), type=Outcome)
        if outcome.error:
            raise RuntimeError(f"{words}: {outcome.error}")
        return outcome


def _measure(
    server: Contestant, crowd: _Crowd, kind: str, body_bytes: int, requests: int
) -> dict[str, Any]:
    port = server.ready.port
    count = {"small": CLIENTS, "upload": UPLOADS, **COUNTS}[kind]
    each_bytes = body_bytes // count
    crowd.ask("open", port, count)
    before_s = server.cpu_s()
    if kind == "small":
        outcome = crowd.ask("small", port, requests)
    else:
        what = "upload" if kind == "upload" else "download"
        outcome = crowd.ask(what, port, count, each_bytes)
    cpu_s = server.cpu_s() - before_s
    crowd.ask("close")
    if outcome.connections:
        raise RuntimeError(f"{kind}: {outcome.connections} connections were opened meanwhile")
    if kind != "small":
        answer = make_body(body_bytes)[:each_bytes] if kind in COUNTS else b"%d" % each_bytes
        if outcome.sha256 != contestants.sha256(answer):
            raise RuntimeError(f"{kind}: a body arrived altered")
    finish = outcome.finish_s
    return {
        "cpu_s": cpu_s,
        "elapsed_s": outcome.seconds,
        "finish_s": {"p10": finish[len(finish) // 10], "max": finish[-1]},
    }


def _figures(
    names: list[str], rounds: list[dict[str, Any]], body_bytes: int, requests: int
) -> dict[str, Any]:
    def per_100_mb(name: str, kind: str) -> float:
        cpu_s = median(rounds, "cpu_s", server=name, kind=kind)
        return round(cpu_s * 100 * _MB / body_bytes, 3)

    rows = [{**one, **one["finish_s"]} for one in rounds]
    by_server = {
        name: {
            "cpu_s_per_100mb": {kind: per_100_mb(name, kind) for kind in COUNTS},
            "cpu_s_per_100mb_up": per_100_mb(name, "upload"),
            "finish_s": {
                which: round(median(rows, which, server=name, kind="five_hundred"), 3)
                for which in ("p10", "max")
            },
        }
        for name in names
    }
    for name, values in by_server.items():
        if (name, "small") not in _UNABLE:
            cpu_s = median(rounds, "cpu_s", server=name, kind="small")
            values["cpu_us_per_small_request"] = round(cpu_s / requests * 1e6, 1)
    return {
        **by_server[names[0]],
        "by_server": by_server,
        "method": {
            "bytes": body_bytes,
            "small_requests": requests,
            "clients": CLIENTS,
            "peregrine": PEREGRINE.requirement,
        },
        "rounds": rounds,
    }


BENCHMARK = Benchmark(
    summary="server CPU per byte of 1, 20 and 500 downloads, of 20 uploads, and of 1,000 clients",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
