"""A NAT between one client and the service: it forwards datagrams, can hold back those of the
client, can continue from another port, and can be as slow as a bad line.

For RFC 9000 it is a network: it does nothing that a network may not do.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Self

from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_header

_LONG_HEADER = 0x80
#: Datagrams that wait before a slow line; more are dropped.
_QUEUE_BYTES = 200_000
_TICK_S = 0.002


class Relay:
    """Clients that come to `port` reach the service at `server`; one client at a time."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._client: Any = None
        self._inside: asyncio.DatagramTransport | None = None
        #: The last is the one that we send from. A datagram for an earlier one still arrives: what
        #: is under way must not vanish under a client that would then have nothing to say.
        self._outside: list[asyncio.DatagramTransport] = []
        self._hold_after: int | None = None
        self._sent_bytes = 0
        self._held: list[bytes] = []
        self._mapping: asyncio.Task[None] | None = None
        self._unmapped: list[bytes] = []
        self._bytes_per_s = 0
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._line: asyncio.Task[None] | None = None
        self.port = 0
        self.holds = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._inside, _ = await loop.create_datagram_endpoint(
            lambda: _Socket(self._from_client), local_addr=("127.0.0.1", 0)
        )
        self.port = self._inside.get_extra_info("sockname")[1]
        await self.rebind()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.cancel()
        assert self._inside is not None
        for transport in (self._inside, *self._outside):
            transport.close()

    async def rebind(self) -> None:
        """From now on the service sees the client at another port, as behind a NAT that forgot."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Socket(self._from_server), remote_addr=self._server
        )
        self._outside.append(transport)

    @property
    def outside_ports(self) -> list[int]:
        """The ports at which the service has seen the client; the last is the present one."""
        return [transport.get_extra_info("sockname")[1] for transport in self._outside]

    def hold_after(self, size: int) -> None:
        """Let so many more bytes of the client's 1-RTT packets through, and hold back the rest."""
        self._hold_after = size
        self._sent_bytes = 0
        self.holds.clear()

    def release(self) -> None:
        """Let go what was held, in its order, and hold back nothing more."""
        held, self._held, self._hold_after = self._held, [], None
        for data in held:
            self._outside[-1].sendto(data)

    def slow_down(self, bytes_per_s: int) -> None:
        """Carry so much to the client at most; 0: as it comes."""
        self._bytes_per_s = bytes_per_s
        if bytes_per_s and self._line is None:
            self._line = asyncio.create_task(self._carry())

    # --- datagrams ------------------------------------------------------------------------------

    def _from_client(self, data: bytes, address: Any) -> None:
        if self._client not in (None, address) and self._mapping is None:
            # RFC 4787 §4.1: another address inside is another mapping.
            self._mapping = asyncio.create_task(self._map_anew())
        self._client = address
        if self._mapping is not None:
            self._unmapped.append(data)
        elif self._hold_after is None:
            self._outside[-1].sendto(data)
        else:
            self._hold_back(data)

    async def _map_anew(self) -> None:
        await self.rebind()
        self._mapping = None
        for data in self._unmapped:
            self._outside[-1].sendto(data)
        self._unmapped.clear()

    def _hold_back(self, data: bytes) -> None:
        handshake, rest = _split(data)
        if rest[:1] < b"\x40":
            # RFC 9000 §17.3.1: no packet. It fills up the datagram.
            handshake, rest = data, b""
        if handshake:
            # As long as it was: RFC 9000 §14.1 minds the size of datagrams with Initial packets.
            self._outside[-1].sendto(handshake.ljust(len(data), b"\0"))
        if not rest:
            return
        if self._sent_bytes >= self._hold_after:
            self._held.append(rest)
            self.holds.set()
        else:
            self._sent_bytes += len(rest)
            self._outside[-1].sendto(rest)

    def _from_server(self, data: bytes, _address: Any) -> None:
        assert self._inside is not None
        if not self._bytes_per_s and not self._queue:
            self._inside.sendto(data, self._client)
        elif self._queue_bytes < _QUEUE_BYTES:
            self._queue.append(data)
            self._queue_bytes += len(data)

    async def _carry(self) -> None:
        """One datagram after the other, as the line's rate allows."""
        assert self._inside is not None
        free_at = time.monotonic()
        while True:
            now = time.monotonic()
            free_at = max(free_at, now - 2 * _TICK_S)
            while self._queue and (free_at <= now or not self._bytes_per_s):
                data = self._queue.popleft()
                self._queue_bytes -= len(data)
                self._inside.sendto(data, self._client)
                free_at += len(data) / self._bytes_per_s if self._bytes_per_s else 0
            await asyncio.sleep(_TICK_S)


def _split(datagram: bytes) -> tuple[bytes, bytes]:
    """The packets of the handshake, and the 1-RTT packet behind them (RFC 9000 §12.2)."""
    end = 0
    while end < len(datagram) and datagram[end] & _LONG_HEADER:
        buffer = Buffer(data=datagram)
        buffer.seek(end)
        end += pull_quic_header(buffer).packet_length
    return datagram[:end], datagram[end:]


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, take: Any) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._take(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A peer that is gone: its client is told, or tells."""
