"""Frame numbers, variable-length integers and the packet under construction (RFC 9000 §16, §19)."""

from __future__ import annotations

from typing import Final

from quicbaton.errors import TransportError
from quicbaton.transport.state import SentFrame

PADDING: Final = 0x00
PING: Final = 0x01
ACK: Final = 0x02
ACK_ECN: Final = 0x03
RESET_STREAM: Final = 0x04
STOP_SENDING: Final = 0x05
CRYPTO: Final = 0x06
NEW_TOKEN: Final = 0x07
STREAM: Final = 0x08
STREAM_FIN: Final = 0x01
STREAM_LEN: Final = 0x02
STREAM_OFF: Final = 0x04
MAX_DATA: Final = 0x10
MAX_STREAM_DATA: Final = 0x11
MAX_STREAMS_BIDI: Final = 0x12
MAX_STREAMS_UNI: Final = 0x13
DATA_BLOCKED: Final = 0x14
STREAM_DATA_BLOCKED: Final = 0x15
STREAMS_BLOCKED_BIDI: Final = 0x16
STREAMS_BLOCKED_UNI: Final = 0x17
NEW_CONNECTION_ID: Final = 0x18
RETIRE_CONNECTION_ID: Final = 0x19
PATH_CHALLENGE: Final = 0x1A
PATH_RESPONSE: Final = 0x1B
TRANSPORT_CLOSE: Final = 0x1C
APPLICATION_CLOSE: Final = 0x1D
HANDSHAKE_DONE: Final = 0x1E
DATAGRAM: Final = 0x30
DATAGRAM_LEN: Final = 0x31
#: Ours, in records of sent packets only: never on the wire.
MTU_PROBE: Final = 0x100

# Transport error codes (RFC 9000 §20.1).
NO_ERROR: Final = 0x00
INTERNAL_ERROR: Final = 0x01
FLOW_CONTROL_ERROR: Final = 0x03
STREAM_LIMIT_ERROR: Final = 0x04
STREAM_STATE_ERROR: Final = 0x05
FINAL_SIZE_ERROR: Final = 0x06
FRAME_ENCODING_ERROR: Final = 0x07
CONNECTION_ID_LIMIT_ERROR: Final = 0x09
PROTOCOL_VIOLATION: Final = 0x0A
CRYPTO_BUFFER_EXCEEDED: Final = 0x0D
KEY_UPDATE_ERROR: Final = 0x0E
AEAD_LIMIT_REACHED: Final = 0x0F
NO_VIABLE_PATH: Final = 0x10

MAX_VARINT: Final = (1 << 62) - 1
#: The encodings of one byte: nearly all integers in frames have one.
_ONE_BYTE: Final = [bytes((value,)) for value in range(0x40)]


def encode_varint(value: int) -> bytes:
    """The shortest encoding of 0 <= value < 2**62 (RFC 9000 §16)."""
    if value < 0x40:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x40000000:
        return (value | 0x80000000).to_bytes(4, "big")
    return (value | 0xC000000000000000).to_bytes(8, "big")


def varint_size(value: int) -> int:
    """Bytes that `encode_varint(value)` takes."""
    return 1 if value < 0x40 else 2 if value < 0x4000 else 4 if value < 0x40000000 else 8


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at `at` and the position after it; TransportError when `data` is too short."""
    try:
        first = data[at]
        if first < 0x40:
            return first, at + 1
        if first < 0x80:
            return (first & 0x3F) << 8 | data[at + 1], at + 2
        length = 1 << (first >> 6)
        end = at + length
        if end > len(data):
            raise IndexError
    except IndexError:
        raise TransportError(FRAME_ENCODING_ERROR, "a frame ends inside an integer") from None
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * length - 2)) - 1), end


class PacketPlan:
    """One packet's payload being filled: pieces, the room left, and the records of what it holds.

    Each part of the transport that has control frames to send gets the plan in its `write_due`
    and adds what fits.
    """

    __slots__ = ("eliciting", "frames", "parts", "room")

    def __init__(self, room: int) -> None:
        self.room = room  # payload bytes left
        self.parts: list[bytes] = []
        self.frames: list[SentFrame] = []
        self.eliciting = False

    def add(self, data: bytes, record: SentFrame | None = None, *, eliciting: bool = True) -> bool:
        """Append an encoded frame if it fits, with the record kept for its ACK or loss."""
        if len(data) > self.room:
            return False
        self.room -= len(data)
        self.parts.append(data)
        if record is not None:
            self.frames.append(record)
        if eliciting:
            self.eliciting = True
        return True
