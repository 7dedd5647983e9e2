"""The network between the hosts of a test: a process that carries IP packets, and loses some.

Every host has one TUN device, whose descriptor this process holds. A packet goes to the host that
has its destination address; that way's `Condition` decides its fate. A way leads from one host to
one other, so both directions and every pair can differ. All chance comes from one seed: a way's
n-th packet meets the same fate in every run.

Which host gets a packet for an address that several have is decided by a `Balancer`.

Commands are JSON lines on stdin, and each is answered with one on stdout. All UDP packets that
hosts put on the wire are noted in a file, with their fate.
"""

from __future__ import annotations

import heapq
import os
import select
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, BinaryIO

import msgspec

from tests.hosts.balancer import Balance, Balancer

_READS_PER_TURN = 64
_MAX_PACKET_BYTES = 65_535
_TCP, _UDP = 6, 17
#: Time, sender, receiver, source port, destination port, fate, bytes.
_NOTE = struct.Struct("=dBBHHBI")
NOBODY = 255
_MAX_RECEIVERS = 16


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The conditions for the packets of one way."""

    delay_ms: float = 0.0
    #: Shares of all packets, 0 to 1.
    loss: float = 0.0
    duplicated: float = 0.0
    #: Of what is not lost: how much of it comes late, overtaken by what was sent after it.
    reordered: float = 0.0
    late_by_ms: float = 5.0
    #: 0 is as fast as it goes. A queue of `queue_ms` stands before a limit; more is dropped.
    mbit: float = 0.0
    queue_ms: float = 100.0
    cut: bool = False


CLEAR = Condition()


class SetWay(msgspec.Struct, tag="way"):
    """From now on the way from one host to another is like this."""

    sender: str
    receiver: str
    condition: Condition


class Translate(msgspec.Struct, tag="translate"):
    """From now on the world sees the host's UDP ports moved by so much, as behind a NAT that maps
    anew. What is under way to a port of before still arrives: a client that has acknowledged all it
    got is silent, and would never learn of its new port where the old one led nowhere at once."""

    host: str
    shift: int


class Flush(msgspec.Struct, tag="flush"):
    """Write down what was noted so far."""


class Forget(msgspec.Struct, tag="forget"):
    """Begin the notes anew."""


class Totals(msgspec.Struct):
    """The answer to every command: packets so far."""

    carried: int
    lost: int


Command = SetWay | Balance | Translate | Flush | Forget


class Note(msgspec.Struct, frozen=True):
    """One UDP datagram that a host put on the wire. `receiver` is empty if there was none."""

    at_s: float
    sender: str
    receiver: str
    source_port: int
    destination_port: int
    lost: bool
    payload: bytes


def read_notes(path: Path, hosts: list[str]) -> Iterator[Note]:
    """Everything in the file; ask the link to flush before."""
    data = path.read_bytes()
    at = 0
    while at + _NOTE.size <= len(data):
        time_s, sender, receiver, source, destination, lost, size = _NOTE.unpack_from(data, at)
        at += _NOTE.size
        name = hosts[receiver] if receiver != NOBODY else ""
        payload = data[at : at + size]
        yield Note(time_s, hosts[sender], name, source, destination, bool(lost), payload)
        at += size


class _Way:
    def __init__(self, seed: str) -> None:
        self.condition = CLEAR
        self._random = Random(seed)
        self._free_at = 0.0

    def arrivals(self, size: int, now: float) -> tuple[float, ...]:
        """When copies of a packet come out at the other end: never, once or twice."""
        condition = self.condition
        # All three are drawn for every packet: what one condition does, does not shift the others.
        lost, doubled, late = self._random.random(), self._random.random(), self._random.random()
        if condition.cut or lost < condition.loss:
            return ()
        if condition.mbit:
            self._free_at = max(self._free_at, now)
            if self._free_at - now > condition.queue_ms / 1e3:
                return ()
            self._free_at += size * 8 / (condition.mbit * 1e6)
            now = self._free_at
        at = now + condition.delay_ms / 1e3
        if late < condition.reordered:
            at += condition.late_by_ms / 1e3
        return (at, at) if doubled < condition.duplicated else (at,)


class LossyLink:
    """Carries packets between TUN devices until its commands end."""

    def __init__(self, hosts: dict[str, int], seed: str, notes: BinaryIO) -> None:
        """`hosts` are TUN descriptors by the host's name, in the order of the notes' numbers."""
        self._names = list(hosts)
        self._numbers = {name: number for number, name in enumerate(hosts)}
        self._fds = list(hosts.values())
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._number_of_fd = {fd: number for number, fd in enumerate(self._fds)}
        self._owners: dict[bytes, int] = {}
        self._balancers: dict[bytes, Balancer] = {}
        self._shifts = [0] * len(hosts)
        #: The port behind the NAT for a port of a host.
        self._at_home: dict[tuple[int, int], int] = {}
        self._ways = [_Way(f"{seed}/{sender}/{receiver}") for sender in hosts for receiver in hosts]
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._notes = notes
        self.totals = Totals(0, 0)

    def own(self, address: str, name: str) -> None:
        """Packets for the address go to this host."""
        self._owners[_packed(address)] = self._numbers[name]

    def perform(self, command: Command) -> Totals:
        if isinstance(command, SetWay):
            sender, receiver = self._numbers[command.sender], self._numbers[command.receiver]
            self._ways[sender * len(self._fds) + receiver].condition = command.condition
        elif isinstance(command, Balance):
            self._balancers[_packed(command.address)] = Balancer(command, self._numbers)
        elif isinstance(command, Translate):
            self._shifts[self._numbers[command.host]] = command.shift
        else:
            self._notes.flush()
            if isinstance(command, Forget):
                self._notes.seek(0)
                self._notes.truncate()
        return self.totals

    def run(self) -> None:
        """Carry on until stdin ends."""
        # select(2), as epoll(7) waits by the millisecond.
        commands = _Lines(sys.stdin.fileno())
        watched = [commands.fd, *self._fds]
        while True:
            wait_s = max(0.0, self._under_way[0][0] - monotonic()) if self._under_way else None
            readable, _, _ = select.select(watched, [], [], wait_s)
            for fd in readable:
                if fd != commands.fd:
                    self._read(fd)
                    continue
                for line in commands.read():
                    answer = self.perform(msgspec.json.decode(line, type=Command))
                    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
                    sys.stdout.buffer.flush()
                if commands.ended:
                    return
            self._deliver(monotonic())

    def _read(self, fd: int) -> None:
        sender = self._number_of_fd[fd]
        now = monotonic()
        for _ in range(_READS_PER_TURN):
            try:
                packet = os.read(fd, _MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            # As through many firewalls, ICMP does not come through.
            if packet[0] >> 4 == 4 and packet[9] in (_TCP, _UDP):
                self._carry(packet, sender, now)

    def _carry(self, packet: bytes, sender: int, now: float) -> None:
        header_bytes = (packet[0] & 0x0F) * 4
        if self._shifts[sender] and packet[9] == _UDP:
            at_home = _port(packet, header_bytes)
            seen = (at_home + self._shifts[sender]) & 0xFFFF
            self._at_home[sender, seen] = at_home
            packet = _with_port(packet, header_bytes, seen)
        balancer = self._balancers.get(packet[16:20])
        if balancer is not None:
            receiver = balancer.choose(packet, header_bytes)
        else:
            receiver = self._owners.get(packet[16:20], NOBODY)
        arrivals: tuple[float, ...] = ()
        if receiver != NOBODY:
            way = self._ways[sender * len(self._fds) + receiver]
            arrivals = way.arrivals(len(packet), now)
        if packet[9] == _UDP:
            self._note(packet, header_bytes, sender, receiver, not arrivals, now)
        self.totals.carried += 1
        self.totals.lost += not arrivals
        if self._at_home and arrivals and packet[9] == _UDP:
            at_home = self._at_home.get((receiver, _port(packet, header_bytes + 2)))
            if at_home is not None:
                packet = _with_port(packet, header_bytes + 2, at_home)
        for at in arrivals:
            self._count += 1
            heapq.heappush(self._under_way, (at, self._count, receiver, packet))

    def _note(
        self, packet: bytes, header_bytes: int, sender: int, receiver: int, lost: bool, now: float
    ) -> None:
        source, destination = _port(packet, header_bytes), _port(packet, header_bytes + 2)
        payload = packet[header_bytes + 8 :]
        self._notes.write(
            _NOTE.pack(now, sender, receiver, source, destination, lost, len(payload))
        )
        self._notes.write(payload)

    def _deliver(self, now: float) -> None:
        under_way = self._under_way
        while under_way and under_way[0][0] <= now:
            _, _, receiver, packet = heapq.heappop(under_way)
            try:
                os.write(self._fds[receiver], packet)
            except OSError:
                # The device is full or down: lost, and rightly so.
                self.totals.lost += 1


class _Lines:
    """Whole lines of a descriptor, without a buffer that select(2) does not see."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self._rest = b""

    def read(self) -> list[bytes]:
        data = os.read(self.fd, 1 << 16)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


def _port(packet: bytes, at: int) -> int:
    return int.from_bytes(packet[at : at + 2], "big")


def _with_port(packet: bytes, at: int, port: int) -> bytes:
    """The packet with another port, and no UDP checksum: RFC 768 has 0 stand for none."""
    changed = bytearray(packet)
    changed[at : at + 2] = port.to_bytes(2, "big")
    checksum = (packet[0] & 0x0F) * 4 + 6
    changed[checksum : checksum + 2] = b"\0\0"
    return bytes(changed)


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def main() -> None:
    """Take the hosts as JSON: name -> [descriptor, addresses...]."""
    hosts: dict[str, list[Any]] = msgspec.json.decode(sys.argv[1])
    with open(sys.argv[3], "wb", buffering=1 << 20) as notes:
        link = LossyLink({name: one[0] for name, one in hosts.items()}, sys.argv[2], notes)
        for name, (_, *addresses) in hosts.items():
            for address in addresses:
                link.own(address, name)
        link.run()


if __name__ == "__main__":
    main()
