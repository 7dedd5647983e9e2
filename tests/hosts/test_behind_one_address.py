"""docs/deploy/behind-one-address.md: its commands on two hosts, under a download."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Self

import pytest

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.main import main
from tests.docs.blocks import ROOT, blocks_of
from tests.hosts.network import Host, Network
from tests.hosts.sites import CLIENT, SHARED, A, B

pytestmark = pytest.mark.process

_GUIDE = ROOT / "docs" / "deploy" / "behind-one-address.md"
_CONTENT = os.urandom(2_000_000)
_RATE = 300_000


def _lines(beginning: str) -> list[list[str]]:
    """The guide's commands at the prompt of a host that begin so, without the program's name."""
    lines = [line for block in blocks_of(_GUIDE) for line in block.text.splitlines()]
    prompt = f"{beginning.partition('$')[0]}$ quicbaton "
    return [shlex.split(line.removeprefix(prompt)) for line in lines if line.startswith(beginning)]


class _Site:
    """The guide's two hosts, and a client."""

    def __init__(self, network: Network, client: Host, a: Host, b: Host) -> None:
        self.network = network
        self.client = client
        self.hosts = {"a": a, "b": b}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Workers outlive a supervisor that is killed.
        for name in self.hosts:
            await (await self._start(name, "stop", "--grace", "0")).communicate()

    async def serve(self, name: str) -> None:
        """As the guide says; returns when all workers serve."""
        (words,) = _lines(f"{name}$ quicbaton serve ")
        process = await self._start(name, *words, "--json")
        await _event(process, "ready")

    async def say(self, name: str, command: str) -> None:
        """A command of the guide, to its end."""
        (words,) = _lines(f"{name}$ quicbaton {command}")
        process = await self._start(name, *words)
        out, errors = await process.communicate()
        assert process.returncode == 0, (out, errors)

    async def connections(self, name: str) -> list[dict[str, Any]]:
        process = await self._start(name, "ps", "--json")
        out, errors = await process.communicate()
        assert process.returncode == 0, errors
        found: list[dict[str, Any]] = json.loads(out)["connections"]
        return [one for one in found if one["state"] == "open"]

    async def _start(self, name: str, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "quicbaton", *words)
        return await self.hosts[name].start(*command, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("in_front", ["vrrp", "quic-lb"])
async def test_a_host_is_emptied_under_a_download_as_the_guide_says(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles, in_front: str
) -> None:
    (init,) = _lines("$ quicbaton keys")
    init[init.index("cluster")] = str(tmp_path / "cluster")
    assert not main(init)
    assert {f"a={A}", f"b={B}"} <= set(init)
    (tmp_path / "file").write_bytes(_CONTENT)
    async with Network(tmp_path, seed) as network:
        client = await network.add("client", CLIENT)
        a = await network.add("a", A, shared=[SHARED])
        b = await network.add("b", B, shared=[SHARED])
        await network.connect()
        nodes = {1: a, 2: b} if in_front == "quic-lb" else {}
        await network.balance(SHARED, nodes, fallback=a)
        for host in (a, b):
            shutil.copytree(tmp_path / "cluster", host.folder / "cluster")
            shutil.copy(hosts_certificate.certificate, host.folder / "cert.pem")
            shutil.copy(hosts_certificate.key, host.folder / "key.pem")
            (host.folder / "www").mkdir()
            # With the time of its last change, as the guide says.
            shutil.copy2(tmp_path / "file", host.folder / "www")
        async with _Site(network, client, a, b) as site:
            await site.serve("a")
            await site.serve("b")
            download = await client.start(
                *(sys.executable, "-m", "demo.curl", f"https://{SHARED}:443/file"),
                *("--ca", hosts_certificate.certificate, "--rate", str(_RATE)),
                *("--hold-at", str(len(_CONTENT) * 3 // 4)),
                stdout=asyncio.subprocess.PIPE,
            )
            assert download.stdout is not None
            assert json.loads(await download.stdout.readline())["type"] == "progress"
            assert len(await site.connections("a")) == 1
            await site.say("a", "drain ")
            assert len(await site.connections("b")) == 1
            # The address moves; behind a balancer, new clients do.
            await network.balance(SHARED, nodes, fallback=b)
            await site.say("a", "stop")
            download.send_signal(signal.SIGUSR1)
            outcome = {}
            async for line in download.stdout:
                outcome = json.loads(line)
        assert not outcome["error"], outcome
        assert outcome["connections"] == 1
        assert outcome["sha256"] == hashlib.sha256(_CONTENT).hexdigest()


async def _event(process: asyncio.subprocess.Process, name: str) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        if json.loads(line)["event"] == name:
            return
    assert process.stderr is not None
    raise AssertionError(await process.stderr.read())
