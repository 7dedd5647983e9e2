"""The unit of sending: datagrams that one system call can send."""

from __future__ import annotations

from typing import NamedTuple

from quicbaton.transport.state import Address


class Train(NamedTuple):
    """Datagrams to one address in one buffer: each `segment_bytes` long, the last one at most."""

    data: bytes
    segment_bytes: int
    remote: Address
    local: Address
    ecn: int = 0  # bits of the IP header

    def datagrams(self) -> list[bytes]:
        data, size = self.data, self.segment_bytes
        if len(data) <= size:
            return [data]
        return [data[at : at + size] for at in range(0, len(data), size)]
