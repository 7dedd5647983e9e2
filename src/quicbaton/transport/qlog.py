"""The transport's events in a qlog trace (draft-ietf-quic-qlog-quic-events), if there is one.

The trace is aioquic's `QuicLoggerTrace` or a subclass: HTTP/3 writes into the same one. Nothing
secret is logged: no keys, no tokens, no payload.
"""

from __future__ import annotations

from typing import Any, Final

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton.transport import frames as f
from quicbaton.transport.headroom import Headroom
from quicbaton.transport.state import NONE, ConnectionState, SentFrame, SentRun

#: The trace that is written to.
Trace = QuicLoggerTrace

_NAMES: Final = {
    f.PADDING: "padding",
    f.PING: "ping",
    f.ACK: "ack",
    f.ACK_ECN: "ack",
    f.RESET_STREAM: "reset_stream",
    f.STOP_SENDING: "stop_sending",
    f.CRYPTO: "crypto",
    f.NEW_TOKEN: "new_token",
    f.STREAM: "stream",
    f.MAX_DATA: "max_data",
    f.MAX_STREAM_DATA: "max_stream_data",
    f.MAX_STREAMS_BIDI: "max_streams",
    f.MAX_STREAMS_UNI: "max_streams",
    f.DATA_BLOCKED: "data_blocked",
    f.STREAM_DATA_BLOCKED: "stream_data_blocked",
    f.STREAMS_BLOCKED_BIDI: "streams_blocked",
    f.STREAMS_BLOCKED_UNI: "streams_blocked",
    f.NEW_CONNECTION_ID: "new_connection_id",
    f.RETIRE_CONNECTION_ID: "retire_connection_id",
    f.PATH_CHALLENGE: "path_challenge",
    f.PATH_RESPONSE: "path_response",
    f.TRANSPORT_CLOSE: "connection_close",
    f.APPLICATION_CLOSE: "connection_close",
    f.HANDSHAKE_DONE: "handshake_done",
    f.DATAGRAM: "datagram",
    f.DATAGRAM_LEN: "datagram",
    f.MTU_PROBE: "ping",
}


def log_sent(trace: QuicLoggerTrace, run: SentRun) -> None:
    """One packet_sent event for each packet of a run."""
    for index in range(run.count):
        if run.stream_id != NONE:
            offset = run.offset + index * run.chunk
            frames = [_stream(run.stream_id, offset, run.chunk, False)]
        else:
            frames = [_frame(frame) for frame in run.frames]
        data = _packet(run.first + index, run.size, frames)
        trace.log_event(category="transport", event="packet_sent", data=data)


def log_received(trace: QuicLoggerTrace, number: int, size: int, kinds: list[int]) -> None:
    """A packet that was authentic and new; `kinds` are its frame types in order."""
    frames = [
        {"frame_type": "stream" if 0x08 <= kind <= 0x0F else _NAMES.get(kind, hex(kind))}
        for kind in kinds
    ]
    trace.log_event(
        category="transport", event="packet_received", data=_packet(number, size, frames)
    )


def log_lost(trace: QuicLoggerTrace, runs: list[SentRun]) -> None:
    """Log each packet of `runs` as lost."""
    for run in runs:
        for number in range(run.first, run.first + run.count):
            trace.log_event(
                category="recovery",
                event="packet_lost",
                data={"header": {"packet_number": number, "packet_type": "1RTT"}},
            )


def log_metrics(trace: QuicLoggerTrace, state: ConnectionState) -> None:
    """Window and round-trip time after an ACK; times in milliseconds."""
    recovery = state.recovery
    trace.log_event(
        category="recovery",
        event="metrics_updated",
        data={
            "bytes_in_flight": state.congestion.in_flight_bytes,
            "cwnd": state.congestion.window_bytes,
            "latest_rtt": recovery.latest_rtt_us / 1000,
            "min_rtt": recovery.min_rtt_us / 1000,
            "smoothed_rtt": recovery.smoothed_rtt_us / 1000,
            "rtt_variance": recovery.rtt_variation_us / 1000,
        },
    )


def log_headroom(trace: QuicLoggerTrace, headroom: Headroom) -> None:
    """Log that another limit than before stops the sender: see `headroom`."""
    trace.log_event(
        category="quicbaton",
        event="send_limited",
        data={"limited_by": headroom.limited_by.value, "bytes": headroom.bytes},
    )


def log_owner(trace: QuicLoggerTrace, event: str, state: ConnectionState) -> None:
    """`event` is frozen or resumed, where one owner's part of the trace ends and begins, or asleep
    or awake."""
    trace.log_event(
        category="quicbaton",
        event=event,
        data={
            "connection": state.name.hex(),
            "connection_time_us": state.clock_us,
            "next_packet_number": state.numbers.next_number,
        },
    )


def _packet(number: int, size: int, frames: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "header": {"packet_number": number, "packet_type": "1RTT"},
        "raw": {"length": size},
        "frames": frames,
    }


def _frame(frame: SentFrame) -> dict[str, Any]:
    kind, a, b, c, d = frame
    if kind == f.STREAM:
        return _stream(a, b, c, bool(d))
    if kind == f.CRYPTO:
        return {"frame_type": "crypto", "offset": b, "length": c}
    return {"frame_type": _NAMES[kind]}


def _stream(stream_id: int, offset: int, length: int, fin: bool) -> dict[str, Any]:
    return {
        "frame_type": "stream",
        "stream_id": stream_id,
        "offset": offset,
        "length": length,
        "fin": fin,
    }
