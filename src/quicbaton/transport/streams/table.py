"""Which streams exist: opening, direction, limits, and the rest of finished ones (§2.1, §3).

Opening a stream opens all lower ones of its type, but objects are made only for those that are
used: a peer that skips IDs costs a counter.
"""

from __future__ import annotations

from quicbaton.errors import StreamStateError, TransportError
from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.state import NONE, ConnectionState, ReceiveHalf, SendHalf, Stream
from quicbaton.transport.streams import flow as flow_rules
from quicbaton.transport.streams.receive_half import is_discarding, new_receive_half
from quicbaton.transport.streams.send_half import is_writable, new_send_half


def wrong_direction(stream_id: int, frame_type: int) -> TransportError:
    """RFC 9000 §19.4, §19.5, §19.8, §19.10: the frame's sender may not send it on this stream."""
    return TransportError(
        f.STREAM_STATE_ERROR, f"stream {stream_id} goes only the other way", frame_type
    )


class StreamTable:
    """Finds streams by ID for the application and for frames, and opens them by the rules."""

    __slots__ = ("_flow", "_own_bit", "_state", "_streams")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._flow = state.flow
        self._streams = state.streams
        self._own_bit = 0 if state.is_client else 1

    def is_waiting(self, stream_id: int) -> bool:
        """Our stream, but beyond the peer's MAX_STREAMS: nothing of it may be sent yet."""
        kind = stream_id >> 1 & 1
        return (
            stream_id & 1 == self._own_bit and stream_id >> 2 >= self._flow.own_streams_limit[kind]
        )

    def is_finished(self, stream_id: int) -> bool:
        """Whether both halves were terminal: only the ordinal is left."""
        return is_finished(self._state, stream_id)

    # --- for the application ------------------------------------------------------------------

    def writable_half(self, stream_id: int) -> SendHalf | None:
        """The half to write to, opened if it is ours to open; None once it is finished."""
        if stream_id & 2 and stream_id & 1 != self._own_bit:
            raise StreamStateError(f"stream {stream_id} can only be read: the peer opened it")
        stream = self._streams.get(stream_id) or self._open(stream_id)
        return None if stream is None else stream.send

    def readable_half(self, stream_id: int) -> ReceiveHalf | None:
        """The half to read from; None once it is finished."""
        if stream_id & 2 and stream_id & 1 == self._own_bit:
            raise StreamStateError(f"stream {stream_id} can only be written: we opened it")
        stream = self._streams.get(stream_id) or self._open(stream_id)
        return None if stream is None else stream.receive

    def _open(self, stream_id: int) -> Stream | None:
        """The application names a stream that has no object: ours, or skipped by the peer."""
        if not 0 <= stream_id <= f.MAX_VARINT:
            raise StreamStateError(f"{stream_id} is not a stream ID")
        if self.is_finished(stream_id):
            return None
        kind = stream_id >> 1 & 1
        ordinal = stream_id >> 2
        flow = self._flow
        if stream_id & 1 != self._own_bit:
            if ordinal >= flow.peer_streams_seen[kind]:
                raise StreamStateError(f"stream {stream_id} is the peer's and was not opened")
        elif ordinal >= flow.own_streams_opened[kind]:
            flow.own_streams_opened[kind] = ordinal + 1
            flow_rules.note_waiting_stream(flow, kind)
        return self._create(stream_id)

    # --- for frames received ------------------------------------------------------------------

    def receiving_stream(self, stream_id: int, frame_type: int) -> Stream | None:
        """The stream of a frame that the peer sends as sender; None when it is finished."""
        if stream_id & 2 and stream_id & 1 == self._own_bit:
            raise wrong_direction(stream_id, frame_type)
        return self._known_to_peer(stream_id, frame_type)

    def sending_stream(self, stream_id: int, frame_type: int) -> Stream | None:
        """The stream of a frame that the peer sends as receiver; None when it is finished."""
        if stream_id & 2 and stream_id & 1 != self._own_bit:
            raise wrong_direction(stream_id, frame_type)
        return self._known_to_peer(stream_id, frame_type)

    def _known_to_peer(self, stream_id: int, frame_type: int) -> Stream | None:
        stream = self._streams.get(stream_id)
        if stream is None and self.is_finished(stream_id):
            return None
        if stream_id & 1 == self._own_bit:
            # RFC 9000 §19.4, §19.5, §19.8, §19.10: the peer cannot know a stream of ours that
            # we have not opened. One that we skipped was opened by the next (§2.1).
            kind = stream_id >> 1 & 1
            unopened = stream is None and stream_id >> 2 >= self._flow.own_streams_opened[kind]
            if unopened or self.is_waiting(stream_id):
                raise TransportError(
                    f.STREAM_STATE_ERROR, f"stream {stream_id} is ours and not open", frame_type
                )
            return stream or self._create(stream_id)
        if stream is None:
            flow_rules.open_peer_stream(self._flow, stream_id, frame_type)
            return self._create(stream_id)
        return stream

    # --- coming and going ---------------------------------------------------------------------

    def _create(self, stream_id: int) -> Stream:
        local, remote = self._state.local, self._state.remote
        own = stream_id & 1 == self._own_bit
        now_us = self._state.clock_us
        if stream_id & 2:
            stream = Stream(
                new_send_half(remote.stream_data_uni) if own else None,
                None if own else new_receive_half(local.stream_data_uni, now_us),
            )
        else:
            # RFC 9000 §18.2: "local" streams are those that the parameter's author opens.
            ours = local.stream_data_bidi_local if own else local.stream_data_bidi_remote
            theirs = remote.stream_data_bidi_remote if own else remote.stream_data_bidi_local
            stream = Stream(new_send_half(theirs), new_receive_half(ours, now_us))
        self._streams[stream_id] = stream
        return stream

    def forget(self, stream_id: int) -> None:
        """Both halves are terminal: keep the ordinal, and give the peer a stream back."""
        stream = self._streams.pop(stream_id)
        ordinal = stream_id >> 2
        rangeset.add(self._state.finished[stream_id & 3], ordinal, ordinal + 1)
        if stream_id & 1 != self._own_bit:
            flow_rules.close_peer_stream(
                self._flow, stream_id, _is_aborted(stream), self._state.clock_us
            )


def is_finished(state: ConnectionState, stream_id: int) -> bool:
    """Whether both halves of a stream were terminal: only the ordinal is left."""
    return rangeset.contains(state.finished[stream_id & 3], stream_id >> 2)


def open_directions(stream: Stream) -> tuple[bool, bool]:
    """Whether the application can still write to a stream, and whether more may come from it."""
    send, receive = stream.send, stream.receive
    return (
        send is not None and is_writable(send),
        receive is not None and not is_discarding(receive),
    )


def _is_aborted(stream: Stream) -> bool:
    send, receive = stream.send, stream.receive
    return (receive is not None and receive.reset_code != NONE) or (
        send is not None and send.reset_code != NONE
    )
