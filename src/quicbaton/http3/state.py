"""What of an HTTP/3 connection must move, as plain data.

The rules of `transport.state` hold here as well: no defaults, arrays instead of maps, NONE (-1)
for a number that does not exist. An idle connection takes about 70 bytes, a browser's 100.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

#: Bits of `Http3Stream.flags`.
RECEIVING_ENDED: Final = 1
SENDING_ENDED: Final = 2
INTERIM_RECEIVED: Final = 4
#: Two bits each: no headers yet, after headers, after trailers.
RECEIVE_PHASE_SHIFT: Final = 3
SEND_PHASE_SHIFT: Final = 5
PHASE_MASK: Final = 3

#: Bits of `Http3State.flags`.
WEBTRANSPORT: Final = 1
DONE: Final = 2


class Http3Stream(Struct, array_like=True, forbid_unknown_fields=True):
    """One stream that HTTP/3 has not finished with: how far its frames are parsed."""

    stream_id: int
    flags: int
    buffer: bytes  # received, not parsed yet: a frame that is not whole
    frame_type: int
    frame_size: int  # of the frame being received, what is missing
    push_id: int
    session_id: int  # WebTransport
    stream_type: int  # of a unidirectional stream
    expected_content_length: int
    content_length: int


class Http3State(Struct, array_like=True, forbid_unknown_fields=True):
    """One connection."""

    flags: int
    sent_settings: list[int]  # identifier, value, identifier, value, ...
    received_settings: list[int] | None  # None before the peer's SETTINGS came
    local_control_stream: int
    local_encoder_stream: int
    local_decoder_stream: int
    peer_control_stream: int
    peer_encoder_stream: int
    peer_decoder_stream: int
    max_push_id: int
    next_push_id: int
    decoder_partial: bytes  # half an instruction from the peer's QPACK decoder
    streams: list[Http3Stream]
