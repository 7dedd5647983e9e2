"""A link with a delay, in user space: a UDP relay between clients and one server.

    .venv/bin/python -m bench.link --server-port 4433 --delay-ms 10

prints the port that clients connect to. Every client gets a socket of its own towards the server,
so the server tells them apart by port. Without a rate bursts stay bursts: what the kernel coalesced
(UDP_GRO) goes out with segmentation offload, one system call for 44 packets, and only the time
passes between. `--mbit` gives the link a rate towards the client, with a queue of `--queue-ms`
behind it whose overflow is dropped, as at a bottleneck router: then each packet arrives when its
last bit has passed, 54 us apart at 200 Mbit/s. `--loss` loses that share of all packets, both ways,
by chance that `--seed` fixes. `--jitter-ms` delays each packet, both ways, by up to so much more:
those that are overtaken arrive out of order.

It ends with a line on stdin, or with stdin, and prints then what its queue was like (`Queue`).
"""

import argparse
import contextlib
import math
import resource
import select
import selectors
import socket
import struct
import sys
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random
from time import monotonic
from typing import Any

import msgspec

_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_READ_BYTES = 65_535
_READS_PER_TURN = 64
_BUFFER_BYTES = 8 << 20
#: The most that one send with UDP_SEGMENT may carry: 64 segments and 65,507 bytes, less a burst's
#: rest.
_MAX_SEGMENTS = 20
_MAX_BURST_BYTES = 65_000
#: A packet leaves so much early rather than late: about what it takes to wake up.
_SLACK_S = 0.00005

_Burst = tuple[float, int, bytes, int]  # when to send it, order of arrival, bytes, segment size


@dataclass(frozen=True)
class _Conditions:
    """What happens to the packets of one direction."""

    delay_s: float
    jitter_s: float
    bytes_per_s: float  # 0: any
    queue_s: float
    loss: float


class Queue(msgspec.Struct):
    """What packets met before a link with a rate: how many there were, how many found no room, and
    what the others waited, in the mean."""

    packets: int = 0
    dropped: int = 0
    wait_ms: float = 0.0


class _Way:
    """One direction of one client's traffic."""

    def __init__(self, conditions: _Conditions, chance: Random) -> None:
        self._conditions = conditions
        self._chance = chance
        self._whole = not (conditions.jitter_s or conditions.bytes_per_s or conditions.loss)
        self._free_at = 0.0
        self._order = 0
        self._bursts: list[_Burst] = []
        self.packets = self.dropped = 0
        self.waited_s = 0.0

    @property
    def due_s(self) -> float:
        """When the next burst is due; infinity when none is under way."""
        return self._bursts[0][0] if self._bursts else math.inf

    def push(self, data: bytes, segment: int, now: float) -> None:
        """Take a burst in; it is due after its turn on the wire and the delay."""
        if self._whole:
            self._put(now + self._conditions.delay_s, data, segment)
            return
        # Packet by packet: that is what a bottleneck hands on and drops.
        delay_s, jitter_s = self._conditions.delay_s, self._conditions.jitter_s
        rate, loss = self._conditions.bytes_per_s, self._conditions.loss
        random = self._chance.random
        for start in range(0, len(data), segment):
            packet = data[start : start + segment]
            at = now
            if rate:
                self._free_at = max(self._free_at, now)
                wait_s = self._free_at - now
                self.packets += 1
                if wait_s > self._conditions.queue_s:
                    self.dropped += 1
                    continue
                self.waited_s += wait_s
                self._free_at += len(packet) / rate
                at = self._free_at
            # Behind the bottleneck: what is lost there has had its turn on the wire.
            if loss and random() < loss:
                continue
            if jitter_s:
                at += jitter_s * random()
            self._put(at + delay_s, packet, segment)

    def take(self, now: float) -> list[tuple[bytes, int]]:
        """The packets that are due, those of one size joined into bursts again."""
        bursts = self._bursts
        taken: list[tuple[bytes, int]] = []
        group: list[bytes] = []
        size = segment = 0
        while bursts and bursts[0][0] <= now:
            _, _, data, next_segment = heappop(bursts)
            full = size + len(data) > _MAX_BURST_BYTES or size >= _MAX_SEGMENTS * segment
            if group and (next_segment != segment or size % segment or full):
                taken.append((b"".join(group), segment))
                group, size = [], 0
            group.append(data)
            size += len(data)
            segment = next_segment
        if group:
            taken.append((b"".join(group), segment))
        return taken

    def _put(self, at: float, data: bytes, segment: int) -> None:
        self._order += 1
        heappush(self._bursts, (at, self._order, data, segment))


class _Flow:
    """One client: a socket towards it (shared) and one towards the server."""

    def __init__(self, client: Any, upstream: socket.socket, up: _Way, down: _Way) -> None:
        self.client = client
        self.upstream = upstream
        self.up = up
        self.down = down


class Relay:
    """All flows of one link. `up` are the conditions for what clients send, `down` the others."""

    def __init__(self, server_port: int, up: _Conditions, down: _Conditions, seed: int) -> None:
        self._up = up
        self._down = down
        self._chance = Random(seed)
        self._server = ("127.0.0.1", server_port)
        self._selector = selectors.EpollSelector()
        self._socket = _open()
        self._socket.bind(("127.0.0.1", 0))
        self._flows: dict[Any, _Flow] = {}
        #: Those with something under way: of thousands of flows few have.
        self._under_way: set[_Flow] = set()
        self._selector.register(self._socket, selectors.EVENT_READ, None)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self)
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        """Relay until stdin has a line, or ends."""
        polled = [self._selector.fileno()]
        while True:
            due = min((min(one.up.due_s, one.down.due_s) for one in self._under_way), default=None)
            # epoll counts in whole milliseconds, select in microseconds.
            select.select(
                polled, (), (), None if due is None else max(0.0, due - monotonic() - _SLACK_S)
            )
            for key, _ in self._selector.select(0):
                if key.data is self:
                    return
                self._read(key.fileobj, key.data)
            self._send_due(monotonic() + _SLACK_S)

    def queue(self) -> Queue:
        """What the queue towards all clients was like."""
        ways = [flow.down for flow in self._flows.values()]
        packets, dropped = sum(way.packets for way in ways), sum(way.dropped for way in ways)
        waited_ms = sum(way.waited_s for way in ways) * 1000
        return Queue(packets, dropped, round(waited_ms / max(packets - dropped, 1), 3))

    def _read(self, sock: Any, flow: _Flow | None) -> None:
        now = monotonic()
        for _ in range(_READS_PER_TURN):
            try:
                data, ancillary, _, source = sock.recvmsg(_READ_BYTES, 64)
            except (BlockingIOError, ConnectionRefusedError):
                return
            segment = len(data)
            for level, kind, value in ancillary:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    segment = int.from_bytes(value[:2], sys.byteorder) or segment
            if flow is not None:
                flow.down.push(data, segment, now)
                self._under_way.add(flow)
            else:
                client = self._flows.get(source) or self._open_flow(source)
                client.up.push(data, segment, now)
                self._under_way.add(client)

    def _open_flow(self, client: Any) -> _Flow:
        upstream = _open()
        upstream.connect(self._server)
        flow = _Flow(client, upstream, _Way(self._up, self._chance), _Way(self._down, self._chance))
        self._flows[client] = flow
        self._selector.register(upstream, selectors.EVENT_READ, flow)
        return flow

    def _send_due(self, now: float) -> None:
        for flow in list(self._under_way):
            for burst, segment in flow.up.take(now):
                _send(flow.upstream, burst, segment, self._server)
            for burst, segment in flow.down.take(now):
                _send(self._socket, burst, segment, flow.client)
            if math.inf == flow.up.due_s == flow.down.due_s:
                self._under_way.discard(flow)


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return sock


def _send(sock: socket.socket, data: bytes, segment: int, to: Any) -> None:
    ancillary = []
    if len(data) > segment:
        ancillary = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", segment))]
    # A full buffer or a client that is gone: lost, as on any link.
    with contextlib.suppress(OSError):
        sock.sendmsg([data], ancillary, 0, to)


def main() -> None:
    """Print the port, relay until stdin says or is the end, and print what the queue was like."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=10.0, help="each way")
    parser.add_argument("--mbit", type=float, default=0.0, help="towards the client; 0: no limit")
    parser.add_argument("--queue-ms", type=float, default=50.0)
    parser.add_argument("--loss", type=float, default=0.0, help="a share of all packets, 0 to 1")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="up to so much more, each way")
    parser.add_argument("--seed", type=int, default=0, help="of all chance")
    options = parser.parse_args()
    # A socket for every client.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    delay_s, jitter_s = options.delay_ms / 1e3, options.jitter_ms / 1e3
    queue_s = options.queue_ms / 1e3
    up = _Conditions(delay_s, jitter_s, 0.0, queue_s, options.loss)
    down = replace(up, bytes_per_s=options.mbit * 1e6 / 8)
    relay = Relay(options.server_port, up, down, options.seed)
    print(relay.port, flush=True)
    relay.run()
    print(msgspec.json.encode(relay.queue()).decode(), flush=True)


if __name__ == "__main__":
    main()
