"""Hosts of a test, each in namespaces of its own, and the lossy link that joins them.

    async with Network(folder, seed) as network:
        client = await network.add("client", "10.77.0.1")
        a = await network.add("a", "10.77.0.11", shared=["10.77.0.100"])
        await network.connect()
        await network.between(client, a, Condition(delay_ms=25, loss=0.01))
        process = await a.start(sys.executable, "-m", "quicbaton", ...)

A host has a network, a boot id, a host name, mounts and, if asked for, monotonic clocks of its own.
All of it ends with the process that holds it, so nothing is left behind by a test that fails or is
killed. Root is needed, and a kernel with namespaces and TUN devices.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from quicbaton.keys.cluster_key import SERIES
from quicbaton.routing.quic_lb import IdLayout
from tests.hosts.balancer import Balance
from tests.hosts.host_process import HostOrder
from tests.hosts.lossy_link import (
    Command,
    Condition,
    Flush,
    Forget,
    Note,
    SetWay,
    Totals,
    Translate,
    read_notes,
)

_HERE = Path(__file__).parent
_GUARD_S = 60.0
#: The config rotation bits of plaintext IDs, and the octets of the node in them.
_PLAINTEXT = frozenset(range(SERIES))
_NODE_BYTES = IdLayout().node_bytes


class Host:
    """One host: what runs on it is started by `start`."""

    def __init__(
        self, name: str, addresses: Sequence[str], folder: Path, holder: asyncio.subprocess.Process
    ) -> None:
        self.name = name
        #: Its own address, then those that it shares with others.
        self.addresses = addresses
        #: Its user's home; every host has one of its own.
        self.folder = folder
        self._holder = holder
        self._processes: list[asyncio.subprocess.Process] = []
        self._wall_clock: tuple[str, ...] = ()
        (folder / "run").mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(_HERE.parents[1]),  # commands run in the host's folder
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "COLUMNS": "200",
        }

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def pid(self) -> int:
        """A process that is in the host's namespaces as long as the host is."""
        return self._holder.pid

    @property
    def entry(self) -> tuple[str, ...]:
        """The command that runs another command on this host; the process stays the same."""
        namespaces = ("--net", "--mount", "--uts", "--time")
        return ("nsenter", "--target", str(self.pid), *namespaces, "--", *self._wall_clock)

    async def set_wall_clock(self, ahead_s: int) -> None:
        """Move the wall clock of everything that is started from here on."""
        library = self.folder / "wall_clock.so"
        compiler = await asyncio.create_subprocess_exec(
            *("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_HERE / "wall_clock.c"))
        )
        assert not await compiler.wait()
        self._wall_clock = ("env", f"LD_PRELOAD={library}", f"CLOCK_AHEAD_S={ahead_s}")

    async def set_mtu(self, size: int) -> None:
        """The interface takes packets of that size at most from now on."""
        script = f"import host_process; host_process.set_mtu({size})"
        path = {"PYTHONPATH": str(_HERE)}
        process = await self.start(sys.executable, "-c", script, environment=path)
        assert not await process.wait()

    async def start(
        self, *command: str | Path, environment: dict[str, str] | None = None, **more: Any
    ) -> asyncio.subprocess.Process:
        """Run a program here; it is killed when the test ends."""
        process = await asyncio.create_subprocess_exec(
            *self.entry,
            *map(str, command),
            env={**self.environment, **(environment or {})},
            cwd=self.folder,
            **{"stdin": asyncio.subprocess.DEVNULL, "limit": 1 << 26, **more},
        )
        self._processes.append(process)
        return process

    async def close(self) -> None:
        for process in (*self._processes, self._holder):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Network:
    """Hosts and the link between them."""

    def __init__(self, folder: Path, seed: str) -> None:
        """All files lie in `folder`. The seed is what chance on the link depends on."""
        self.folder = folder
        self.seed = seed
        self.hosts: dict[str, Host] = {}
        self._wires: dict[str, int] = {}
        self._holds: list[socket.socket] = []
        self._link: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in self.hosts.values():
            await host.close()
        if self._link is not None:
            with contextlib.suppress(ProcessLookupError):
                self._link.kill()
            await self._link.wait()
        for hold in self._holds:
            hold.close()
        self._close_wires()

    async def add(
        self,
        name: str,
        address: str,
        *,
        shared: Sequence[str] = (),
        clock_ahead_s: int = 0,
        small_disks: dict[str, int] | None = None,
    ) -> Host:
        """A new host. `clock_ahead_s` is how far its monotonic clock is ahead of other hosts'."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        addresses = [address, *shared]
        order = HostOrder(name, addresses, str(uuid.uuid4()), small_disks or {})
        ours, theirs = socket.socketpair()
        # The holder lives until our end closes, which it does in any event when we die.
        self._holds.append(ours)
        ours.setblocking(False)
        with theirs:
            clocks = ("--monotonic", str(clock_ahead_s), "--boottime", str(clock_ahead_s))
            holder = await asyncio.create_subprocess_exec(
                *("unshare", "--net", "--mount", "--uts", "--time", *clocks, "--"),
                *(sys.executable, str(_HERE / "host_process.py")),
                msgspec.json.encode(order).decode(),
                str(theirs.fileno()),
                str(folder / "boot_id"),
                pass_fds=(theirs.fileno(),),
            )
        self.hosts[name] = Host(name, addresses, folder, holder)
        self._wires[name] = await _receive_descriptor(ours)
        return self.hosts[name]

    async def connect(self) -> None:
        """Join the hosts, when all of them are there."""
        hosts = {name: [self._wires[name], host.address] for name, host in self.hosts.items()}
        self._link = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.hosts.lossy_link"),
            msgspec.json.encode(hosts).decode(),
            self.seed,
            str(self._notes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=tuple(self._wires.values()),
            cwd=_HERE.parents[1],
        )
        self._close_wires()
        await self._tell(Flush())

    async def way(self, sender: Host, receiver: Host, condition: Condition) -> None:
        """Set what happens to packets from one host to another, in this direction."""
        await self._tell(SetWay(sender.name, receiver.name, condition))

    async def between(self, one: Host, other: Host, condition: Condition) -> None:
        """Set the ways between two hosts, both directions alike."""
        await self.way(one, other, condition)
        await self.way(other, one, condition)

    async def balance(
        self, address: str, nodes: dict[int, Host], fallback: Host | None = None
    ) -> None:
        """Share an address between hosts, by the node in the plaintext connection ID; packets
        without one go to `fallback`, or are spread by hash."""
        order = Balance(address, _names(nodes), _PLAINTEXT, _NODE_BYTES)
        await self.balance_as(order, fallback)

    async def balance_as(self, order: Balance, fallback: Host | None = None) -> None:
        """As `balance`, by another order."""
        name = "" if fallback is None else fallback.name
        await self._tell(msgspec.structs.replace(order, fallback=name))

    async def spread(self, address: str, hosts: Sequence[Host]) -> None:
        """Share an address between hosts by hash alone, as routers with a route to each do."""
        await self._tell(Balance(address, _names(dict(enumerate(hosts)))))

    async def rebind(self, host: Host, shift: int) -> None:
        """Have the world see the host's UDP ports moved by so much."""
        await self._tell(Translate(host.name, shift))

    async def notes(self) -> list[Note]:
        """Every UDP datagram that a host has put on the wire so far."""
        await self._tell(Flush())
        return list(read_notes(self._notes, list(self.hosts)))

    async def forget(self) -> None:
        """Begin the notes anew."""
        await self._tell(Forget())

    @property
    def _notes(self) -> Path:
        return self.folder / "notes"

    async def _tell(self, command: Command) -> Totals:
        assert self._link is not None
        assert self._link.stdin is not None
        assert self._link.stdout is not None
        async with self._turn:
            self._link.stdin.write(msgspec.json.encode(command) + b"\n")
            answer = await self._link.stdout.readline()
        assert answer, "the link broke off: its stderr says why"
        return msgspec.json.decode(answer, type=Totals)

    def _close_wires(self) -> None:
        while self._wires:
            os.close(self._wires.popitem()[1])


def _names(hosts: dict[int, Host]) -> dict[int, str]:
    return {number: host.name for number, host in hosts.items()}


async def _receive_descriptor(channel: socket.socket) -> int:
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(channel, readable.set)
    try:
        async with asyncio.timeout(_GUARD_S):
            await readable.wait()
    finally:
        loop.remove_reader(channel)
    data, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
    assert data, "a host did not come up: its stderr says why"
    return descriptors[0]
