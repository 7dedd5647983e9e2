"""A link with a delay, in user space: a UDP relay between clients and one server.

    .venv/bin/python -m bench.link --server-port 4433 --delay-ms 10

prints the port that clients connect to. Every client gets a socket of its own towards the server,
so the server tells them apart by port. Bursts stay bursts: what the kernel coalesced (UDP_GRO)
goes out with segmentation offload, one system call for 44 packets, and only the time passes
between. `--mbit` gives the link a rate towards the client, with a queue of `--queue-ms` behind it
whose overflow is dropped, as at a bottleneck router. `--loss` loses that share of all packets, both
ways, by chance that `--seed` fixes.
"""

import argparse
import contextlib
import resource
import selectors
import socket
import struct
import sys
from collections import deque
from random import Random
from time import monotonic
from typing import Any

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
#: epoll counts in whole milliseconds: a due burst may leave so much early rather than late.
_SLACK_S = 0.0005

_Burst = tuple[float, bytes, int]  # when to send it, bytes, segment size


class _Way:
    """One direction of one client's traffic."""

    def __init__(
        self, delay_s: float, bytes_per_s: float, queue_s: float, loss: float, chance: Random
    ) -> None:
        self._loss = loss
        self._chance = chance
        self._delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._queue_s = queue_s
        self._free_at = 0.0
        self.bursts: deque[_Burst] = deque()

    def push(self, data: bytes, segment: int, now: float) -> None:
        """Take a burst in; it is due after its turn on the wire and the delay."""
        if self._loss:
            data = self._survivors(data, segment)
            if not data:
                return
        if not self._bytes_per_s:
            self.bursts.append((now + self._delay_s, data, segment))
            return
        # Piece by piece: a bottleneck hands on packets, not bursts, and drops packets.
        for start in range(0, len(data), segment):
            packet = data[start : start + segment]
            self._free_at = max(self._free_at, now)
            if self._free_at - now > self._queue_s:
                continue
            self._free_at += len(packet) / self._bytes_per_s
            self.bursts.append((self._free_at + self._delay_s, packet, segment))

    def _survivors(self, data: bytes, segment: int) -> bytes:
        """The burst without the packets that are lost. Only the last may be short, and still is."""
        return b"".join(
            data[start : start + segment]
            for start in range(0, len(data), segment)
            if self._chance.random() >= self._loss
        )


class _Flow:
    """One client: a socket towards it (shared) and one towards the server."""

    def __init__(self, client: Any, upstream: socket.socket, up: _Way, down: _Way) -> None:
        self.client = client
        self.upstream = upstream
        self.up = up
        self.down = down


class Relay:
    """All flows of one link."""

    def __init__(
        self,
        server_port: int,
        delay_s: float,
        mbit: float,
        queue_s: float,
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._loss = loss
        self._chance = Random(seed)
        self._server = ("127.0.0.1", server_port)
        self._delay_s = delay_s
        self._bytes_per_s = mbit * 1e6 / 8
        self._queue_s = queue_s
        self._selector = selectors.DefaultSelector()
        self._socket = _open()
        self._socket.bind(("127.0.0.1", 0))
        self._flows: dict[Any, _Flow] = {}
        #: Those with something under way: of thousands of flows few have.
        self._under_way: set[_Flow] = set()
        self._selector.register(self._socket, selectors.EVENT_READ, None)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self)
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        """Relay until stdin ends."""
        while True:
            due = min(
                (
                    way.bursts[0][0]
                    for flow in self._under_way
                    for way in (flow.up, flow.down)
                    if way.bursts
                ),
                default=None,
            )
            timeout = None if due is None else max(0.0, due - monotonic() - _SLACK_S)
            for key, _ in self._selector.select(timeout):
                if key.data is self:
                    return
                self._read(key.fileobj, key.data)
            self._send_due(monotonic() + _SLACK_S)

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
        chance = (self._loss, self._chance)
        up = _Way(self._delay_s, 0.0, self._queue_s, *chance)
        down = _Way(self._delay_s, self._bytes_per_s, self._queue_s, *chance)
        flow = _Flow(client, upstream, up, down)
        self._flows[client] = flow
        self._selector.register(upstream, selectors.EVENT_READ, flow)
        return flow

    def _send_due(self, now: float) -> None:
        for flow in list(self._under_way):
            for burst, segment in _take(flow.up.bursts, now):
                _send(flow.upstream, burst, segment, self._server)
            for burst, segment in _take(flow.down.bursts, now):
                _send(self._socket, burst, segment, flow.client)
            if not flow.up.bursts and not flow.down.bursts:
                self._under_way.discard(flow)


def _take(bursts: deque[_Burst], now: float) -> list[tuple[bytes, int]]:
    """The packets that are due, those of one size joined into bursts again."""
    taken: list[tuple[bytes, int]] = []
    group: list[bytes] = []
    size = segment = 0
    while bursts and bursts[0][0] <= now:
        _, data, next_segment = bursts.popleft()
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
    """Print the port, then relay until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=10.0, help="each way")
    parser.add_argument("--mbit", type=float, default=0.0, help="towards the client; 0: no limit")
    parser.add_argument("--queue-ms", type=float, default=50.0)
    parser.add_argument("--loss", type=float, default=0.0, help="a share of all packets, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="of what is lost")
    options = parser.parse_args()
    # A socket for every client.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    relay = Relay(
        options.server_port,
        options.delay_ms / 1e3,
        options.mbit,
        options.queue_ms / 1e3,
        options.loss,
        options.seed,
    )
    print(relay.port, flush=True)
    relay.run()


if __name__ == "__main__":
    main()
