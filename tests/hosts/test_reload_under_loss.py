"""A service whose workers are replaced under many connections with traffic, and loss."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.throng import Report
from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.lossy_link import Condition
from tests.hosts.network import Host, Network
from tests.hosts.sites import CLIENT, PORT, A

pytestmark = pytest.mark.process

CONNECTIONS = 200
LOSSY = Condition(delay_ms=2, loss=0.01, reordered=0.01)
_ROOT = Path(__file__).parents[2]
_GUARD_S = 180.0


class Throng:
    """Connections that fetch and compare all the time, in a process on the client's host."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, line: str) -> Report:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(_GUARD_S):
            answer = await self._process.stdout.readline()
        return msgspec.json.decode(answer, type=Report)

    async def everybody_was_answered(self) -> Report:
        """Wait until each connection has got at least one answer from now on."""
        await self.ask("mark")
        async with asyncio.timeout(_GUARD_S):
            while True:
                report = await self.ask("report")
                if report.dropped or len(report.longest_ms) == report.connections:
                    return report
                await asyncio.sleep(0.1)


async def quicbaton(host: Host, *arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
    """Run a command on a host to its end: exit status and what it said."""
    process = await host.start(
        *(sys.executable, "-m", "quicbaton", *arguments, "--json"), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in output.splitlines()]


async def serve(host: Host, files: Path, certificate: CertificateFiles) -> Path:
    """Start a service with two workers; its control socket."""
    output = host.folder / "service"
    with output.open("wb") as file:
        await host.start(
            *(sys.executable, "-m", "quicbaton", "serve", files, "--workers", "2", "--json"),
            *("--host", A, "--port", str(PORT)),
            *("--cert", certificate.certificate, "--key", certificate.key),
            stdout=file,
        )
    async with asyncio.timeout(_GUARD_S):
        while True:
            for line in output.read_text().splitlines():
                event = json.loads(line)
                if event["event"] == "ready":
                    return Path(event["control"])
            await asyncio.sleep(0.05)


async def test_no_connection_is_dropped_and_every_answer_is_right(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for number in range(8):
        (files / f"{number}.bin").write_bytes(os.urandom(5000 + number))
    async with Network(tmp_path, seed) as network:
        client = await network.add("client", CLIENT)
        a = await network.add("a", A)
        await network.connect()
        await network.between(client, a, LOSSY)
        control = await serve(a, files, hosts_certificate)
        try:
            throng = Throng(
                await client.start(
                    *(sys.executable, "-m", "bench.throng", A, str(PORT), files, "1"),
                    environment={"PYTHONPATH": str(_ROOT)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert (await throng.ask(f"open {CONNECTIONS}")).connections == CONNECTIONS
            status, said = await quicbaton(a, "reload", control)
            assert status == 0, said
            report = await throng.everybody_was_answered()
            assert report.dropped == 0, report.first_failure
            assert report.hash_errors == 0
        finally:
            # Its workers would outlive it.
            await quicbaton(a, "stop", control, "--grace", "0")
