"""DATAGRAM frames (RFC 9221): how large one may be, and those that wait.

Nothing is fragmented and nothing is sent again, so a DATAGRAM fits the peer's limit and one packet
of the path, or it cannot be sent at all. The path's share changes with its MTU and with the path.
"""

from __future__ import annotations

from typing import Final

from quicbaton import limits
from quicbaton.errors import CallerError
from quicbaton.reasons import Reason
from quicbaton.transport import frames as f
from quicbaton.transport.state import ConnectionState

#: Of a packet that holds nothing else: first byte, the longest packet number, the AEAD tag.
_PACKET_OVERHEAD_BYTES: Final = 1 + 4 + 16
#: Frame type and Length: payloads of up to 63 bytes, and all that a packet holds.
_SHORT_HEAD_BYTES: Final = 2
_HEAD_BYTES: Final = 3
_SHORT_BYTES: Final = 63


def largest_payload(state: ConnectionState) -> int:
    """Bytes of the largest DATAGRAM that can be sent now; 0: none can."""
    cid_bytes = max([len(known.cid) for known in state.ids.peer], default=20)
    packet_bytes = state.paths[0].mtu_bytes - _PACKET_OVERHEAD_BYTES - cid_bytes
    frame_bytes = min(packet_bytes, state.remote.max_datagram_frame_bytes)
    if frame_bytes > _SHORT_BYTES + _HEAD_BYTES:
        return frame_bytes - _HEAD_BYTES
    return max(0, min(frame_bytes - _SHORT_HEAD_BYTES, _SHORT_BYTES))


def queue(state: ConnectionState, data: bytes) -> None:
    """Queue a DATAGRAM; the oldest goes when too many wait (§5: they are unreliable).

    Raises CallerError (`datagram_too_large`) for more than `largest_payload`.
    """
    largest = largest_payload(state)
    if len(data) > largest or not state.remote.max_datagram_frame_bytes:
        raise CallerError(
            f"a DATAGRAM of {len(data)} bytes does not fit: the peer and the path take up to "
            f"{largest} now; ask max_datagram_bytes, which changes with the path",
            code=Reason.DATAGRAM_TOO_LARGE,
        )
    state.datagrams.append(data)
    excess = len(state.datagrams) - limits.MAX_QUEUED_DATAGRAMS
    if excess > 0:
        del state.datagrams[:excess]
        state.datagrams_dropped += excess


def write_due(state: ConnectionState, plan: f.PacketPlan) -> None:
    """Add those that fit. One that is too large for the path by now is dropped and counted; one for
    which only this packet has no room waits for the next."""
    waiting = state.datagrams
    done = 0
    for data in waiting:
        head = bytes([f.DATAGRAM_LEN]) + f.encode_varint(len(data))
        if not plan.add(head + data):
            if len(data) <= largest_payload(state):
                break
            state.datagrams_dropped += 1
        done += 1
    del waiting[:done]
