"""docs/deploy/behind-one-address.md on hosts: its commands, and clients that download meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.main import main
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.hosts.balancer import Balance, hashed
from tests.hosts.lossy_link import Note
from tests.hosts.network import Host, Network
from tests.hosts.sites import CLIENT, SHARED, A, B
from tests.processes.harness import until

GUIDE = ROOT / "docs" / "deploy" / "behind-one-address.md"
PORT = 443
#: The section about a balancer that has a key.
WITH_KEY = "A balancer that reads connection IDs"
#: More than any client takes ahead of its program.
_CONTENT = os.urandom(8_000_000)
_RATE = 400_000


def blocks(heading: str) -> list[Block]:
    """The blocks in the guide's section with this heading."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    begin = lines.index(f"## {heading}")
    ends = [number for number, line in enumerate(lines) if line.startswith("## ")]
    end = next((number for number in ends if number > begin), len(lines))
    return [block for block in blocks_of(GUIDE) if begin < block.line <= end]


def command(heading: str, beginning: str) -> list[str]:
    """The section's only command at the prompt of a host that begins so, without `quicbaton`."""
    lines = [line for block in blocks(heading) for line in block.text.splitlines()]
    (line,) = [line for line in lines if line.startswith(beginning)]
    return shlex.split(line.removeprefix(f"{beginning.partition('$')[0]}$ quicbaton "))


def keyed_balance() -> Balance:
    """The order for a balancer that the guide configures."""
    told = tomllib.loads(_snippet("toml"))
    names = {A: "a", B: "b"}
    return Balance(
        SHARED,
        {int(number, 16): names[host] for number, host in told["server-id-mappings"].items()},
        frozenset([told["config-rotation-bits"]]),
        told["server-id-length"],
        told["nonce-length"],
        told["cid-key"],
    )


class Download:
    """libcurl, which takes its time until it is told to hurry."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        #: At the client; the world sees it moved by what the network is told.
        self.port = port

    async def finish(self) -> None:
        """To its end, which must be right."""
        self._process.send_signal(signal.SIGUSR1)
        outcome = {}
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            outcome = json.loads(line)
        assert not outcome["error"], outcome
        assert outcome["connections"] == 1
        assert outcome["sha256"] == hashlib.sha256(_CONTENT).hexdigest()


class Site:
    """The guide's two hosts, and a client."""

    def __init__(
        self, network: Network, client: Host, a: Host, b: Host, certificate: CertificateFiles
    ) -> None:
        self.network = network
        self.client = client
        self.a = a
        self.b = b
        self._certificate = certificate
        self._controls: dict[str, Path] = {}

    async def serve(self, host: Host, heading: str = "The cluster") -> None:
        """As a section of the guide says; returns when all workers serve."""
        words = command(heading, f"{host.name}$ quicbaton serve ")
        process = await self._start(host, *words, "--json")
        self._controls[host.name] = Path((await _event(process, "ready"))["control"])

    async def say(self, host: Host, beginning: str) -> None:
        """A command for emptying the host, to its end."""
        words = command("Empty a host", f"{host.name}$ quicbaton {beginning}")
        process = await self._start(host, *words)
        out, errors = await process.communicate()
        assert process.returncode == 0, (out, errors)

    async def stop(self) -> None:
        """End both: workers outlive a supervisor that is killed."""
        for host in (self.a, self.b):
            await (await self._start(host, "stop", "--grace", "0")).communicate()

    async def connections(self, host: Host) -> int:
        """How many are open there."""
        process = await self._start(host, "ps", "--json")
        out, errors = await process.communicate()
        assert process.returncode == 0, errors
        found: list[dict[str, Any]] = json.loads(out)["connections"]
        return sum(one["state"] == "open" for one in found)

    async def tossed(self, host: Host) -> int:
        """Datagrams that came to the host and were sent on to the place that their ID names."""
        found = await ask(self._controls[host.name], c.ReadTallies(), c.Tallies)
        return sum(one.counters.get("tossed", 0) for one in found.tallies)

    async def download(self) -> Download:
        """A client that has begun and will not end by itself."""
        before = {note.source_port for note in await self.from_client()}
        process = await self.client.start(
            *(sys.executable, "-m", "demo.curl", f"https://{SHARED}:{PORT}/file"),
            *("--ca", self._certificate.certificate, "--rate", str(_RATE)),
            *("--hold-at", str(len(_CONTENT) // 4)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert json.loads(await process.stdout.readline())["type"] == "progress"
        (port,) = {note.source_port for note in await self.from_client()} - before
        return Download(process, port)

    async def from_client(self, since: int = 0) -> list[Note]:
        """Its datagrams, without so many of the first notes."""
        notes = (await self.network.notes())[since:]
        return [note for note in notes if note.sender == "client"]

    async def count(self) -> int:
        """Datagrams that were sent so far, by any host."""
        return len(await self.network.notes())

    async def moved(self, download: Download, shift: int, owner: Host) -> None:
        """Have the world see the client's ports moved, and wait until the owner answers there."""
        await self.network.rebind(self.client, shift)
        port = download.port + shift & 0xFFFF

        async def answered() -> bool:
            notes = await self.network.notes()
            return any((n.sender, n.destination_port) == (owner.name, port) for n in notes)

        await until(answered, f"{owner.name} to answer at the client's new port")

    async def packets_lead_to(self, host: Host) -> None:
        """Return when the client's latest datagram went to that host."""

        async def led() -> bool:
            return (await self.from_client())[-1].receiver == host.name

        await until(led, f"packets to {host.name}")

    async def _start(self, host: Host, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await host.start(sys.executable, "-m", "quicbaton", *words, stdout=pipe, stderr=pipe)


def led_to(port: int, hosts: list[Host]) -> Host:
    """The host that routers choose by a hash for a client at this port."""
    addresses = socket.inet_aton(CLIENT) + socket.inet_aton(SHARED)
    return hosts[hashed(addresses + struct.pack("!HH", port, PORT), hosts)]


def shift_to(host: Host, port: int, hosts: list[Host]) -> int:
    """How far the client's port has to move for its packets to lead there."""
    return next(n for n in itertools.count(1) if led_to(port + n & 0xFFFF, hosts) is host)


@asynccontextmanager
async def site_of_the_guide(
    folder: Path, seed: str, certificate: CertificateFiles
) -> AsyncIterator[Site]:
    """Everything but what is in front of the hosts; nothing is served yet."""
    init = command("The cluster", "$ quicbaton keys")
    init[init.index("cluster")] = str(folder / "cluster")
    assert not main(init)
    assert {f"a={A}", f"b={B}"} <= set(init)
    forms = _snippet("text")
    (folder / "file").write_bytes(_CONTENT)
    async with Network(folder, seed) as network:
        client = await network.add("client", CLIENT)
        a = await network.add("a", A, shared=[SHARED])
        b = await network.add("b", B, shared=[SHARED])
        await network.connect()
        for host in (a, b):
            shutil.copytree(folder / "cluster", host.folder / "cluster")
            shutil.copy(certificate.certificate, host.folder / "cert.pem")
            shutil.copy(certificate.key, host.folder / "key.pem")
            (host.folder / "forms").touch(0o600)
            (host.folder / "forms").write_text(forms)
            (host.folder / "www").mkdir()
            # With the time of its last change, as the guide says.
            shutil.copy2(folder / "file", host.folder / "www")
        site = Site(network, client, a, b, certificate)
        try:
            yield site
        finally:
            await site.stop()


def _snippet(language: str) -> str:
    """The section on balancers has one in this language."""
    (text,) = [one.text for one in blocks(WITH_KEY) if one.language == language]
    return text


async def _event(process: asyncio.subprocess.Process, name: str) -> dict[str, Any]:
    assert process.stdout is not None
    async for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == name:
            return event
    assert process.stderr is not None
    raise AssertionError(await process.stderr.read())
