"""The peer's three critical streams: control, and QPACK's two (RFC 9114 §6.2.1, RFC 9204 §4.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from quicbaton import limits
from quicbaton.http3 import qpack, webtransport
from quicbaton.http3.base import Http3Base
from quicbaton.http3.codes import RESERVED_FRAME_TYPES, FrameType, Setting, StreamType
from quicbaton.http3.errors import (
    ClosedCriticalStream,
    ExcessiveLoadError,
    FrameError,
    FrameUnexpected,
    IdError,
    MissingSettingsError,
    SettingsError,
    StreamCreationError,
)
from quicbaton.http3.events import GoawayReceived, H3Event, PriorityReceived
from quicbaton.http3.frames import parse_identifier, parse_settings, pull_header, pull_varint
from quicbaton.http3.priority import parse_priority
from quicbaton.http3.state import HEAD
from quicbaton.transport.state import NONE

#: Frames of messages, which have no place here (RFC 9114 §7.2).
_MESSAGE_FRAMES: Final = RESERVED_FRAME_TYPES | {
    FrameType.DATA,
    FrameType.HEADERS,
    FrameType.PUSH_PROMISE,
}
#: The largest payload of each frame that is kept. All other frames are skipped.
_SIZES: Final[dict[int, int]] = {
    FrameType.SETTINGS: limits.MAX_SETTINGS_BYTES,
    FrameType.GOAWAY: 8,
    FrameType.MAX_PUSH_ID: 8,
    FrameType.CANCEL_PUSH: 8,
    FrameType.PRIORITY_UPDATE: limits.MAX_PRIORITY_UPDATE_BYTES,
    FrameType.PRIORITY_UPDATE_PUSH: limits.MAX_PRIORITY_UPDATE_BYTES,
}
#: Frames that are one integer.
_IDENTIFIERS: Final = frozenset((FrameType.GOAWAY, FrameType.MAX_PUSH_ID, FrameType.CANCEL_PUSH))
#: Kinds of peers whose settings are shared.
_MAX_KNOWN: Final = 256
#: The names of critical streams in `Http3State`, by stream type.
CRITICAL: Final[dict[int, str]] = {
    StreamType.CONTROL: "peer_control_stream",
    StreamType.QPACK_ENCODER: "peer_encoder_stream",
    StreamType.QPACK_DECODER: "peer_decoder_stream",
}


class ControlStream(Http3Base):
    """Reads critical streams. `ReceivingSide` finds them."""

    def _is_critical(self, stream_id: int) -> bool:
        state = self._state
        critical = (state.peer_control_stream, state.peer_encoder_stream, state.peer_decoder_stream)
        return stream_id & 2 != 0 and stream_id in critical

    def _begin_critical(self, stream_id: int, stream_type: int) -> None:
        name = CRITICAL[stream_type]
        if getattr(self._state, name) != NONE:
            raise StreamCreationError(f"Only one {_TITLES[stream_type]} stream is allowed")
        setattr(self._state, name, stream_id)

    def _on_critical(self, stream_id: int, data: bytes, ended: bool) -> list[H3Event]:
        if ended:
            name = "control" if stream_id == self._state.peer_control_stream else "QPACK"
            raise ClosedCriticalStream(f"Closing {name} stream is not allowed")
        state = self._state
        if stream_id == state.peer_control_stream:
            return self._read_control(data)
        if stream_id == state.peer_encoder_stream:
            qpack.check_encoder_stream(data)
        else:
            state.decoder_held = qpack.check_decoder_stream(state.decoder_held + data)
        return []

    # --- helpers, in reading order --------------------------------------------------------------

    def _read_control(self, data: bytes) -> list[H3Event]:
        state = self._state
        events: list[H3Event] = []
        at = 0
        if state.control_frame_type == NONE and state.control_held:
            data = state.control_held + data
            state.control_held = b""
        while at < len(data):
            if state.control_frame_type == NONE:
                header = pull_header(data, at)
                if header is None:
                    state.control_held = data[at:]
                    break
                frame_type, length, at = header
                self._check_control_frame(frame_type, length)
                state.control_frame_type = frame_type
                state.control_frame_left = length
            frame_type = state.control_frame_type
            end = min(len(data), at + state.control_frame_left)
            state.control_frame_left -= end - at
            if frame_type in _SIZES:
                state.control_held += data[at:end]
            at = end
            if state.control_frame_left:
                break
            payload, state.control_held = state.control_held, b""
            state.control_frame_type = NONE
            if frame_type in _SIZES:
                self._on_control_frame(frame_type, payload, events)
        return events

    def _check_control_frame(self, frame_type: int, length: int) -> None:
        """Check that a frame may begin here, before a byte of it is kept."""
        has_settings = self._state.received_settings is not None
        if frame_type == FrameType.SETTINGS:
            if has_settings:
                raise FrameUnexpected("SETTINGS have already been received")  # §7.2.4
        elif not has_settings:
            raise MissingSettingsError  # §6.2.1
        if frame_type in _MESSAGE_FRAMES:
            raise FrameUnexpected("Invalid frame type on control stream")
        if frame_type == FrameType.MAX_PUSH_ID and self._is_client:
            raise FrameUnexpected("Servers must not send MAX_PUSH_ID")  # §7.2.7
        if frame_type in (FrameType.PRIORITY_UPDATE, FrameType.PRIORITY_UPDATE_PUSH) and (
            self._is_client
        ):
            raise FrameUnexpected("Servers must not send PRIORITY_UPDATE")  # RFC 9218 §7.2
        # A peer may repeat each of these frames endlessly, in two bytes: none carries a message.
        self._spend_idle_frame()
        size = _SIZES.get(frame_type, length)
        if frame_type in _IDENTIFIERS and length > size:
            raise FrameError(f"{FrameType(frame_type).name} frame has trailing data")
        if length > size:
            raise ExcessiveLoadError(f"a {FrameType(frame_type).name} frame of {length} bytes")

    def _on_control_frame(self, frame_type: int, payload: bytes, events: list[H3Event]) -> None:
        if frame_type == FrameType.SETTINGS:
            settings = _known_settings(payload)
            self._check_settings(settings)
            self._state.received_settings = settings
        elif frame_type == FrameType.GOAWAY:
            events.append(self._on_goaway(parse_identifier(payload, "GOAWAY")))
        elif frame_type == FrameType.MAX_PUSH_ID:
            push_id = parse_identifier(payload, "MAX_PUSH_ID")
            if push_id < self._state.max_push_id:
                raise IdError("MAX_PUSH_ID reduced the maximum push ID")  # §7.2.7
            self._state.max_push_id = push_id
        elif frame_type == FrameType.CANCEL_PUSH:
            push_id = parse_identifier(payload, "CANCEL_PUSH")
            state = self._state
            if push_id >= (state.max_push_id + 1 if self._is_client else state.next_push_id):
                raise IdError("CANCEL_PUSH for a push that was not promised")  # §7.2.3
        else:
            self._on_priority_update(frame_type, payload, events)

    def _check_settings(self, settings: dict[int, int]) -> None:
        """Check the peer's settings by RFC 9114 §7.2.4, RFC 9220 §5 and RFC 9297 §2.1.1."""
        for setting in (Setting.ENABLE_CONNECT_PROTOCOL, Setting.H3_DATAGRAM):
            if settings.get(setting, 0) not in (0, 1):
                raise SettingsError(f"{setting.name} setting must be 0 or 1")
        webtransport.check_settings(settings)
        if settings.get(Setting.H3_DATAGRAM) and not self._peer_takes_datagrams():
            raise SettingsError("H3_DATAGRAM requires max_datagram_frame_size transport parameter")

    def _peer_takes_datagrams(self) -> bool:
        quic: Any = self._quic
        return quic._remote_max_datagram_frame_size is not None

    def _on_goaway(self, identifier: int) -> H3Event:
        """§5.2: GOAWAY names a request when it goes to a client, a push when it goes to a
        server."""
        state = self._state
        if self._is_client and identifier & 3:
            raise IdError("GOAWAY names no request")
        if 0 <= state.goaway_received < identifier:
            raise IdError("GOAWAY cannot be raised")
        state.goaway_received = identifier
        return GoawayReceived(identifier)

    def _on_priority_update(self, frame_type: int, payload: bytes, events: list[H3Event]) -> None:
        """RFC 9218 §7.2."""
        pulled = pull_varint(payload, 0)
        if pulled is None:
            raise FrameError("Could not parse PRIORITY_UPDATE frame")
        element, at = pulled
        state = self._state
        if frame_type == FrameType.PRIORITY_UPDATE_PUSH:
            if element >= state.next_push_id:
                raise IdError("PRIORITY_UPDATE for a push that was not promised")
            return
        if element & 3:
            raise IdError("PRIORITY_UPDATE for a stream that is no request")
        priority = parse_priority(payload[at:])
        stream = self._streams.get(element)
        if element < state.next_request_id:
            # Even if HTTP/3 has finished with the stream: the transport may have data of it to
            # send.
            self._prioritize(element, *priority)
            if stream is not None and stream.receive != HEAD:
                events.append(PriorityReceived(element, *priority))
                return
            if self._is_finished(element):
                return
        # It may come before its request, or while that has half arrived: the request's own header
        # is older. HTTP/3 does not know which IDs we allow the client to open, only QUIC does. So
        # only a few are remembered.
        state.priorities.pop(element, None)
        if len(state.priorities) >= limits.MAX_EARLY_PRIORITIES:
            del state.priorities[next(iter(state.priorities))]
        state.priorities[element] = priority.urgency << 1 | priority.incremental


_TITLES: Final[dict[int, str]] = {
    StreamType.CONTROL: "control",
    StreamType.QPACK_ENCODER: "QPACK encoder",
    StreamType.QPACK_DECODER: "QPACK decoder",
}


@lru_cache(maxsize=_MAX_KNOWN)
def _known_settings(payload: bytes) -> dict[int, int]:
    """As `parse_settings`. Peers of one kind have the same ones, and share them: do not change the
    result."""
    return parse_settings(payload)
