"""Goodput of a service with one worker and with two, under libcurl.

`quicbaton serve` as users run it, with the kernel steering; several C clients (libcurl, a process
each) download over connections that are open already, the same number on every worker. Clients and
servers share the machine's cores, which bounds the gain of two workers. So the CPU per megabyte is
measured on both sides. `allowed_ratio` is the ratio that these cores would give without losses: two
workers use all of them, one worker and its clients no more than they can.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.benchmark import Benchmark
from bench.client import Answer, Command
from bench.processes import Program
from bench.servers.application import SMALL_BYTES, make_body
from bench.service import Service

_MB = 1_000_000
_CLIENTS = 4
_OPENINGS = 200


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--megabytes", type=int, default=0, help="a client's download (100)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything, by turns."""
    size = (options.megabytes or (10 if options.quick else 100)) * _MB
    rounds = 1 if options.quick else options.rounds
    measured: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = _make_home(folder, size)
        for number in range(rounds):
            for workers in (1, 2):
                step(2 * number + workers - 1, 2 * rounds, f"{workers} workers")
                measured[workers].append(_measure(folder, workers, body, size))
    step(2 * rounds, 2 * rounds, "done")
    goodput = {
        workers: statistics.median(one["goodput_mb_s"] for one in values)
        for workers, values in measured.items()
    }
    server = statistics.median(one["server_cpu_ms_per_mb"] for one in measured[1])
    client = statistics.median(one["client_cpu_ms_per_mb"] for one in measured[1])
    return {
        "goodput_mb_s": {"one": round(goodput[1], 1), "two": round(goodput[2], 1)},
        "ratio": round(goodput[2] / goodput[1], 2),
        "allowed_ratio": round(_allowed(server, client, os.cpu_count() or 1), 2),
        "server_cpu_ms_per_mb": round(server, 2),
        "client_cpu_ms_per_mb": round(client, 2),
        "clients": _CLIENTS,
        "rounds": {"one": measured[1], "two": measured[2]},
    }


def _allowed(server_ms: float, client_ms: float, cores: int) -> float:
    """Best goodput with two workers over the best with one, from the CPU that a megabyte costs."""
    everything = cores / (server_ms + client_ms)
    return min(everything, 2 / server_ms) / min(everything, 1 / server_ms)


def _make_home(folder: Path, size: int) -> bytes:
    files = folder / "files"
    files.mkdir()
    body = make_body(size)
    (files / "body").write_bytes(body)
    (files / "small").write_bytes(make_body(SMALL_BYTES))
    return hashlib.sha256(body).digest()


def _measure(folder: Path, workers: int, digest: bytes, size: int) -> dict[str, float]:
    with ExitStack() as stack:
        service = stack.enter_context(Service(folder, folder / "files", workers))
        clients = _clients_on_each(stack, service, folder, size)
        before = service.cpu_s(), sum(client.cpu_s() for client in clients)
        begun = time.monotonic()
        for client in clients:
            client.write_line(_command("download", service.port))
        answers = [msgspec.json.decode(client.read_line(), type=Answer) for client in clients]
        seconds = time.monotonic() - begun
        megabytes = len(clients) * size / _MB
        server_s = service.cpu_s() - before[0]
        client_s = sum(client.cpu_s() for client in clients) - before[1]
        for answer in answers:
            if answer.error or answer.sha256 != digest.hex():
                raise RuntimeError(f"a download went wrong: {answer}")
        return {
            "goodput_mb_s": megabytes / seconds,
            "server_cpu_ms_per_mb": server_s / megabytes * 1000,
            "client_cpu_ms_per_mb": client_s / megabytes * 1000,
        }


def _clients_on_each(stack: ExitStack, service: Service, folder: Path, size: int) -> list[Program]:
    """Clients with an open connection, the same number on every worker: where one comes out is
    chance, so those that are too many begin again."""
    clients = [
        stack.enter_context(Program("bench.client", str(service.certificate), str(size)))
        for _ in range(_CLIENTS)
    ]
    share = _CLIENTS // service.workers
    for client in clients:
        before = service.connections()
        for _ in range(_OPENINGS):
            client.write_line(_command("open", service.port))
            answer = msgspec.json.decode(client.read_line(), type=Answer)
            if answer.error:
                raise RuntimeError(answer.error)
            if max(service.connections()) <= share:
                break
            client.write_line(_command("close", service.port))
            client.read_line()
            while service.connections() != before:
                time.sleep(0.01)
        else:
            raise RuntimeError("the kernel brings all clients to one worker")
    return clients


def _command(operation: str, port: int) -> str:
    return msgspec.json.encode(Command(operation, port, 1)).decode()


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Goodput of both, beside what the machine allows."""
    one, two = figures["goodput_mb_s"]["one"], figures["goodput_mb_s"]["two"]
    axes.bar(["one worker", "two workers"], [one, two])
    axes.axhline(one * figures["allowed_ratio"], linestyle="--", label="what these cores allow")
    axes.set_ylabel("goodput, MB/s")
    axes.legend()


BENCHMARK = Benchmark(
    summary="goodput of one and of two workers under C clients, and what the cores allow",
    configure=configure,
    run=run,
    plot=plot,
)
