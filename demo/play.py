"""The plot: hand a download's connection back and forth, then kill the process that accepted it."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import time
from pathlib import Path
from typing import Final, Protocol

import msgspec

from demo.curl import Progress
from demo.distance import DistanceScript, measure
from demo.processes import Client, Server
from demo.recording import Counts, Handoff, Recording
from quicbaton.cli.certificate import write_self_signed
from quicbaton.errors import PeerError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c


class Script(msgspec.Struct, frozen=True):
    """How much of everything. An odd number of handoffs leaves the connection with the process
    that did not accept it."""

    file_bytes: int = 200_000_000
    rate_bytes_per_s: int = 16_000_000
    handoffs: int = 13
    distance: DistanceScript = DistanceScript()


#: Progress, as parts of the file, at which the first and the last handoff and the kill are due.
_FIRST_AT: Final = 0.05
_LAST_AT: Final = 0.80
_KILL_AT: Final = 0.85

_HOST: Final = "127.0.0.1"
_FILE: Final = "random.bin"
_POLL_S: Final = 0.01
_PATIENCE_S: Final = 10.0


class Display(Protocol):
    """Shows the events."""

    def note(self, text: str) -> None: ...
    def begin(self, size: int, owner: int) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def handed_over(self, handoff: Handoff) -> None: ...
    def killed(self, pid: int) -> None: ...


async def play(folder: Path, display: Display, script: Script = Script()) -> Recording:  # noqa: B008 - frozen
    """Run the demo in an empty folder that only this user can read."""
    served = folder / "files"
    served.mkdir()
    display.note(f"making a file of {script.file_bytes / 1e6:.0f} MB of random bytes")
    sha256 = _make_file(served / _FILE, script.file_bytes)
    files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
    keys = folder / "cluster.keys"
    keys.touch(mode=0o600)
    keys.write_text(KeyRing(ClusterKey.generate(os.urandom)).encode(), encoding="ascii")
    shared = ["--cert", str(files.certificate), "--key", str(files.key), "--keys", str(keys)]
    servers: list[Server] = []
    try:
        first = await Server.start(
            served, *shared, "--host", _HOST, "--port", "0", "--control", str(folder / "1.sock")
        )
        servers.append(first)
        second = await Server.start(
            served, *shared, "--join", str(first.control), "--control", str(folder / "2.sock")
        )
        servers.append(second)
        display.note(f"two servers on UDP port {first.port}: pid {first.pid} and pid {second.pid}")
        url = f"https://{_HOST}:{first.port}/{_FILE}"
        run = _Run(url, files.certificate, servers, display, script)
        recording = await run.perform(sha256)
    finally:
        for server in servers:
            await server.stop()
    far = script.distance
    display.note(f"the same {far.delay_ms} ms away from the client, beside reconnecting")
    (folder / "distance").mkdir()
    recording.distance = await measure(folder / "distance", far)
    return recording


class _Run:
    """One download and what is done to it."""

    def __init__(
        self, url: str, ca: Path, servers: list[Server], display: Display, script: Script
    ) -> None:
        self._script = script
        self._url = url
        self._ca = ca
        self._servers = servers
        self._display = display
        self._handoffs: list[Handoff] = []

    async def perform(self, sha256: str) -> Recording:
        size = self._script.file_bytes
        rate = ["--rate", str(self._script.rate_bytes_per_s)]
        client = await Client.start(
            [self._url, "--ca", str(self._ca), *rate], self._display.progress
        )
        try:
            await client.until(1)
            first, connection = await self._find()
            self._display.begin(size, first.pid)
            survivor = await self._pass_around(client, first, connection)
            counts = {first.pid: _counts(await first.look())}
            killed_ns = 0
            if await client.until(int(_KILL_AT * size)):
                # Once more: the process has served until now, if only by forwarding strays.
                counts = {first.pid: _counts(await first.look())}
                killed_ns = await first.kill()
                self._display.killed(first.pid)
            outcome = await client.outcome
            counts[survivor.pid] = _counts(await survivor.look())
        finally:
            await client.stop()
        return Recording(
            size=size,
            sha256=sha256,
            first_owner=first.pid,
            processes=(first.pid, survivor.pid),
            handoffs=self._handoffs,
            killed_ns=killed_ns,
            outcome=outcome,
            counts=counts,
        )

    async def _find(self) -> tuple[Server, str]:
        """The process that accepted the connection, and the connection's name."""
        for server in self._servers:
            for info in (await server.look()).connections:
                return server, info.connection
        raise PeerError("the client reached none of the servers", code=Reason.UNREACHABLE)

    async def _pass_around(self, client: Client, first: Server, connection: str) -> Server:
        """Hand over as the script says; the process that did not accept the connection."""
        owner = first
        handoffs = self._script.handoffs
        for number in range(handoffs):
            part = _FIRST_AT + (_LAST_AT - _FIRST_AT) * number / max(1, handoffs - 1)
            if not await client.until(int(part * self._script.file_bytes)):
                break
            other = next(server for server in self._servers if server is not owner)
            asked_ns = time.monotonic_ns()
            resumed_ns = await owner.hand_off(connection, other)
            handoff = Handoff(owner.pid, other.pid, asked_ns, resumed_ns)
            self._handoffs.append(handoff)
            self._display.handed_over(handoff)
            owner = other
            await self._until_cut_over(owner, connection)
        return next(server for server in self._servers if server is not first)

    async def _until_cut_over(self, owner: Server, connection: str) -> None:
        """Wait until the client uses the new owner's IDs alone: only then may it go on."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            infos = (await owner.look()).connections
            if not any(i.connection == connection and i.cutover_pending for i in infos):
                return
            await asyncio.sleep(_POLL_S)
        raise PeerError(
            f"the client did not cut over to pid {owner.pid} in {_PATIENCE_S:.0f} s",
            code=Reason.CUTOVER_PENDING,
        )


def _counts(listed: c.Connections) -> Counts:
    return Counts(
        accepted=listed.accepted,
        datagrams_sent=listed.datagrams_sent,
        datagrams_received=listed.datagrams_received,
    )


def _make_file(path: Path, size: int) -> str:
    """Write random bytes; their SHA-256."""
    digest = hashlib.sha256()
    step = 1 << 20
    with path.open("wb") as file:
        for start in range(0, size, step):
            piece = os.urandom(min(step, size - start))
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()
