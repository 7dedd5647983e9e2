"""The cost of each attack of `docs/security.md`: to the attacker, to us, and to other clients.

The attacks are those of `tests.clients.hostile`, each by a process of its own, against `quicbaton
serve`. An attacker with a connection keeps 64 packets on its way, as a client with a fast link
does; one without waits after each 32 datagrams until the server has read them. So an attacker takes
all that the server's one core gives it, and no packets of others are lost to a full socket buffer:
a link that is full of packets would say nothing about a server.

* Per attack, alone: CPU time of the server process (user and system) per 1,000 bytes that the
  attacker sent, the peak of its resident memory above that from before, and how the attacker's
  connection ended. A server of its own each.
* Per attack and round, beside three innocent libcurls (`bench.innocents`) and two connections of
  aioquic (`bench.bystanders`): the longest time that one of them waits, for the answer to a small
  request, for the next piece of a download, for the answer to an upload, for the echo of a
  WebTransport session, and, after the attack, for the answer to an idle connection. Reported is the
  median over the rounds. Before each attack the innocent are watched for as long without one;
  `undisturbed_wait_ms` is the median of that.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.benchmark import Benchmark
from bench.bystanders import Waits as BystanderWaits
from bench.file_server import NEIGHBOURHOOD, FileServer
from bench.innocents import Waits as InnocentWaits
from bench.processes import Program
from demo import style
from tests.clients.hostile import ATTACKS, Result

_SECONDS = 2.0
_QUICK_SECONDS = 0.5
_PACKETS = 1_000_000
#: After an attack: what it set in motion goes on for a while.
_AFTERMATH_S = 0.3
_SMALL_BYTES = 1024
_BODY_BYTES = 1_000_000
_LARGE_BYTES = 100_000_000
#: More than without an attack; docs/security.md promises it.
_PROMISE_MS = 50.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="a comma-separated choice")
    parser.add_argument("--seconds", type=float, default=0.0, help=f"of each ({_SECONDS:g})")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure every attack alone, then in rounds beside innocent clients."""
    names = options.attacks.split(",")
    if unknown := set(names) - set(ATTACKS):
        raise SystemExit(f"no such attack: {', '.join(sorted(unknown))}")
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    rounds = 1 if options.quick else options.rounds
    total = len(names) * (1 + rounds)
    done = 0
    alone: dict[str, dict[str, Any]] = {}
    beside: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _write_files(folder)
        for attack in names:
            step(done, total, f"{attack}, alone")
            alone[attack] = _alone(folder, files, attack, seconds)
            done += 1
        for number in range(rounds):
            for attack in names:
                step(done, total, f"{attack}, beside others")
                measured = _beside(folder, files, attack, seconds)
                beside.append({"round": number, "attack": attack, **measured})
                done += 1
    step(total, total, "done")
    return _figures(alone, beside, seconds)


def _alone(folder: Path, files: Path, attack: str, seconds: float) -> dict[str, Any]:
    with FileServer(folder, files) as server:
        # What is loaded and compiled once is no attack's.
        _attack(server.port, attack, 0.05)
        _attack(server.port, "request_flood", 0.05)
        time.sleep(_AFTERMATH_S)
        before_kb, _ = server.resident_kb()
        server.forget_peak()
        before_s = server.cpu_s()
        result = _attack(server.port, attack, seconds)
        cpu_s = server.cpu_s() - before_s
        time.sleep(_AFTERMATH_S)
        after_kb, peak_kb = server.resident_kb()
    return {
        **msgspec.to_builtins(result),
        "cpu_s": round(cpu_s, 4),
        "peak_kb": peak_kb - before_kb,
        "left_kb": after_kb - before_kb,
    }


def _beside(folder: Path, files: Path, attack: str, seconds: float) -> dict[str, Any]:
    hashes = [hashlib.sha256((files / name).read_bytes()).hexdigest() for name in ("small", "body")]
    with FileServer(folder, files, app=NEIGHBOURHOOD) as server, ExitStack() as stack:
        arguments = (str(server.port), str(server.certificate), *hashes)
        innocents = stack.enter_context(Program("bench.innocents", *arguments))
        bystanders = stack.enter_context(Program("bench.bystanders", str(server.port)))
        for program in (innocents, bystanders):
            program.read_line()
        _ask(innocents, bystanders)
        time.sleep(seconds + _AFTERMATH_S)
        undisturbed, _ = _ask(innocents, bystanders)
        result = _attack(server.port, attack, seconds)
        time.sleep(_AFTERMATH_S)
        disturbed, broken = _ask(innocents, bystanders)
    if broken:
        raise RuntimeError(f"{attack} hurt the innocent: {broken}")
    return {
        "undisturbed_ms": max(undisturbed.values()),
        "worst_ms": max(disturbed.values()),
        **disturbed,
        "closed": result.closed,
        "packets": result.packets,
    }


def _attack(port: int, attack: str, seconds: float) -> Result:
    """By a process of its own, to its end."""
    command = [sys.executable, "-m", "tests.clients.hostile", str(port), attack]
    limits = ("--packets", str(_PACKETS), "--seconds", f"{seconds:g}")
    output = subprocess.check_output([*command, *limits])
    return msgspec.json.decode(output, type=Result)


def _ask(innocents: Program, bystanders: Program) -> tuple[dict[str, float], list[str]]:
    """Their longest waits in ms, by what for, and what is broken."""
    for program in (innocents, bystanders):
        program.write_line("")
    curls = msgspec.json.decode(innocents.read_line(), type=InnocentWaits)
    others = msgspec.json.decode(bystanders.read_line(), type=BystanderWaits)
    waits = {
        "request_ms": curls.request_ms,
        "body_ms": curls.body_ms,
        "upload_ms": curls.upload_ms,
        "session_ms": others.session_ms,
        "idle_ms": others.idle_ms,
    }
    return waits, curls.broken + others.broken


def _write_files(folder: Path) -> Path:
    files = folder / "files"
    files.mkdir()
    for name, size in (("small", _SMALL_BYTES), ("body", _BODY_BYTES), ("large", _LARGE_BYTES)):
        (files / name).write_bytes(os.urandom(size))
    return files


def _figures(
    alone: dict[str, dict[str, Any]], beside: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    def median(attack: str, quantity: str) -> float:
        found: list[float] = [one[quantity] for one in beside if one["attack"] == attack]
        return statistics.median(found)

    return {
        "undisturbed_wait_ms": round(statistics.median(one["undisturbed_ms"] for one in beside), 1),
        "worst_wait_ms": {attack: round(median(attack, "worst_ms"), 1) for attack in alone},
        "cpu_us_per_attacker_kb": {
            attack: round(one["cpu_s"] * 1e9 / one["sent_bytes"], 1)
            for attack, one in alone.items()
        },
        "rss_kb": {attack: one["peak_kb"] for attack, one in alone.items()},
        "rss_left_kb": {attack: one["left_kb"] for attack, one in alone.items()},
        "attacker_bytes": {attack: one["sent_bytes"] for attack, one in alone.items()},
        "attacker_packets": {attack: one["packets"] for attack, one in alone.items()},
        "attacker_closed": {attack: one["closed"] for attack, one in alone.items()},
        "method": {"seconds_per_attack": seconds, "rounds": len(beside) // max(1, len(alone))},
        "alone": list(alone.values()),
        "rounds": beside,
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw the longest waits, beside what is promised."""
    waits = sorted(figures["worst_wait_ms"].items(), key=lambda one: one[1])
    undisturbed = figures["undisturbed_wait_ms"]
    axes.barh([name.replace("_", " ") for name, _ in waits], [wait for _, wait in waits])
    axes.axvline(undisturbed, color=style.OTHER, linestyle=":", label="without an attack")
    axes.axvline(undisturbed + _PROMISE_MS, color=style.LOSS, linestyle=":", label="promised")
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("longest wait of an innocent client beside the attack, ms")
    axes.set_title("Innocent clients of a server under attack (less is better)", loc="left")
    axes.legend(frameon=False, loc="lower right")


BENCHMARK = Benchmark(
    summary="attacks: what they cost the attacker, the server, and the clients beside it",
    configure=configure,
    run=run,
    plot=plot,
)
