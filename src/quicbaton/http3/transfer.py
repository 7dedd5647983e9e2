"""Moving an HTTP/3 connection: its state out of one object and into another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, TypeVar

import pylsqpack
from aioquic.h3.connection import H3Connection as AioquicH3Connection
from aioquic.h3.connection import H3Stream, HeadersState, Setting

from quicbaton.errors import RefusedError
from quicbaton.http3 import state as s
from quicbaton.http3.connection import _FIRST_SWEEP, H3Connection
from quicbaton.http3.qpack import StaticDecoder, StaticEncoder
from quicbaton.http3.state import Http3State, Http3Stream
from quicbaton.transport.state import NONE

#: By value: to call an enumeration costs seven times a look-up.
_PHASES: Final = {phase.value: phase for phase in HeadersState}

_H3 = TypeVar("_H3", bound=H3Connection)


def export_state(h3: AioquicH3Connection, left: Collection[int] = ()) -> Http3State:
    """The state of `h3`, which stays as it is. The streams `left` are not told: their events go to
    `h3` on, and the restored connection never hears of them.

    Our `H3Connection` can always be moved. aioquic's own can as long as no byte has passed on
    the QPACK instruction streams in either direction, for then both dynamic tables are empty.

    Raises RefusedError: `qpack_dynamic_table` when there may be a dynamic table,
    `not_exportable` for a subclass of aioquic's that may keep things that we do not know of and
    for a connection-wide stream among those left.
    """
    if isinstance(h3, H3Connection):
        h3.forget_finished_streams()
    elif type(h3) is not AioquicH3Connection:
        raise RefusedError(
            f"{type(h3).__qualname__} may hold state of its own; derive it from "
            "quicbaton.http3.H3Connection to have it moved",
            code="not_exportable",
        )
    _refuse_critical(h3, left)
    encoder: Any = h3._encoder
    _refuse_dynamic_table(h3)
    return Http3State(
        flags=s.WEBTRANSPORT * h3._enable_webtransport | s.DONE * h3._is_done,
        sent_settings=_flat(h3._sent_settings or {}),
        received_settings=None if h3._received_settings is None else _flat(h3._received_settings),
        local_control_stream=_number(h3._local_control_stream_id),
        local_encoder_stream=_number(h3._local_encoder_stream_id),
        local_decoder_stream=_number(h3._local_decoder_stream_id),
        peer_control_stream=_number(h3._peer_control_stream_id),
        peer_encoder_stream=_number(h3._peer_encoder_stream_id),
        peer_decoder_stream=_number(h3._peer_decoder_stream_id),
        max_push_id=_number(h3._max_push_id),
        next_push_id=h3._next_push_id,
        decoder_partial=encoder.partial if isinstance(encoder, StaticEncoder) else b"",
        streams=[
            _export_stream(stream) for stream in h3._stream.values() if stream.stream_id not in left
        ],
    )


def restore(quic: Any, state: Http3State, cls: type[_H3] = H3Connection) -> _H3:  # type: ignore[assignment]
    """A connection over `quic` that goes on where the exported one stood; sends nothing.

    `cls` is the class of the result: our `H3Connection` or a subclass, whose `__init__` is not
    called.
    """
    h3 = cls.__new__(cls)
    sent = _pairs(state.sent_settings)
    h3._max_table_capacity = sent.get(Setting.QPACK_MAX_TABLE_CAPACITY, 0)
    h3._blocked_streams = sent.get(Setting.QPACK_BLOCKED_STREAMS, 0)
    h3._enable_webtransport = bool(state.flags & s.WEBTRANSPORT)
    h3._is_client = quic.configuration.is_client
    h3._is_done = bool(state.flags & s.DONE)
    h3._quic = quic
    h3._quic_logger = quic._quic_logger
    h3._decoder = _decoder(h3._max_table_capacity, h3._blocked_streams)
    h3._encoder = StaticEncoder(state.decoder_partial)  # type: ignore[assignment]
    # Counters for logs: they start anew.
    h3._decoder_bytes_received = h3._decoder_bytes_sent = 0
    h3._encoder_bytes_received = h3._encoder_bytes_sent = 0
    h3._settings_received = state.received_settings is not None
    h3._stream = {stream.stream_id: _restore_stream(stream) for stream in state.streams}
    h3._max_push_id = _optional(state.max_push_id)
    h3._next_push_id = state.next_push_id
    h3._local_control_stream_id = _optional(state.local_control_stream)
    h3._local_decoder_stream_id = _optional(state.local_decoder_stream)
    h3._local_encoder_stream_id = _optional(state.local_encoder_stream)
    h3._peer_control_stream_id = _optional(state.peer_control_stream)
    h3._peer_decoder_stream_id = _optional(state.peer_decoder_stream)
    h3._peer_encoder_stream_id = _optional(state.peer_encoder_stream)
    h3._received_settings = (
        None if state.received_settings is None else _pairs(state.received_settings)
    )
    h3._sent_settings = sent
    h3._sweep_at = max(_FIRST_SWEEP, 2 * len(h3._stream))
    return h3


def _decoder(max_table_capacity: int, blocked_streams: int) -> Any:
    # What was aioquic's own connection has offered the peer a table, which the peer may yet use.
    if max_table_capacity:
        return pylsqpack.Decoder(max_table_capacity, blocked_streams)
    return StaticDecoder()


def _refuse_dynamic_table(h3: AioquicH3Connection) -> None:
    """RFC 9204 §2: tables change by the encoder streams, and are referred to only after that."""
    tables_are_static = isinstance(h3._encoder, StaticEncoder)
    received = h3._encoder_bytes_received and not isinstance(h3._decoder, StaticDecoder)
    sent = (h3._encoder_bytes_sent or h3._decoder_bytes_received) and not tables_are_static
    blocked = any(stream.blocked for stream in h3._stream.values())
    if received or sent or blocked or (h3._decoder_bytes_sent and not tables_are_static):
        raise RefusedError(
            "the connection uses the QPACK dynamic table, which cannot be read out; use "
            "quicbaton.http3.H3Connection, which offers none",
            code="qpack_dynamic_table",
        )


def _refuse_critical(h3: AioquicH3Connection, left: Collection[int]) -> None:
    """RFC 9114 §6.2.1: a connection lives as long as its control and QPACK streams."""
    for stream_id in left:
        stream = h3._stream.get(stream_id)
        if stream_id & 2 and (stream is None or stream.session_id is None):
            raise RefusedError(
                f"stream {stream_id} is none of a request's: it cannot stay behind when the "
                "connection moves",
                code="not_exportable",
            )


def _export_stream(stream: H3Stream) -> Http3Stream:
    flags = (
        s.RECEIVING_ENDED * stream.receiving_ended
        | s.SENDING_ENDED * stream.sending_ended
        | s.INTERIM_RECEIVED * stream.interim_response_received
        | stream.headers_recv_state.value << s.RECEIVE_PHASE_SHIFT
        | stream.headers_send_state.value << s.SEND_PHASE_SHIFT
    )
    return Http3Stream(
        stream_id=stream.stream_id,
        flags=flags,
        buffer=stream.buffer,
        frame_type=_number(stream.frame_type),
        frame_size=_number(stream.frame_size),
        push_id=_number(stream.push_id),
        session_id=_number(stream.session_id),
        stream_type=_number(stream.stream_type),
        expected_content_length=_number(stream.expected_content_length),
        content_length=stream.content_length,
    )


def _restore_stream(state: Http3Stream) -> H3Stream:
    stream = H3Stream(state.stream_id)
    flags = state.flags
    stream.buffer = state.buffer
    stream.receiving_ended = bool(flags & s.RECEIVING_ENDED)
    stream.sending_ended = bool(flags & s.SENDING_ENDED)
    stream.interim_response_received = bool(flags & s.INTERIM_RECEIVED)
    stream.headers_recv_state = _PHASES[flags >> s.RECEIVE_PHASE_SHIFT & s.PHASE_MASK]
    stream.headers_send_state = _PHASES[flags >> s.SEND_PHASE_SHIFT & s.PHASE_MASK]
    stream.frame_type = _optional(state.frame_type)
    stream.frame_size = _optional(state.frame_size)
    stream.push_id = _optional(state.push_id)
    stream.session_id = _optional(state.session_id)
    stream.stream_type = _optional(state.stream_type)
    stream.expected_content_length = _optional(state.expected_content_length)
    stream.content_length = state.content_length
    return stream


def _flat(settings: dict[int, int]) -> list[int]:
    return [int(number) for pair in settings.items() for number in pair]


def _pairs(flat: list[int]) -> dict[int, int]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _number(value: int | None) -> int:
    return NONE if value is None else int(value)


def _optional(value: int) -> int | None:
    return None if value == NONE else value
