"""HTTP/3 in a qlog trace, where there is one, by the methods that aioquic's traces have."""

from __future__ import annotations

from typing import Any, Final

from quicbaton.http3.codes import StreamType
from quicbaton.http3.fields import Fields

_TYPES: Final[dict[int, str]] = {
    StreamType.CONTROL: "control",
    StreamType.PUSH: "push",
    StreamType.QPACK_ENCODER: "qpack_encoder",
    StreamType.QPACK_DECODER: "qpack_decoder",
    StreamType.WEBTRANSPORT: "webtransport",
}


def log_stream_type(trace: Any, stream_id: int, stream_type: int) -> None:
    """Log the type of a unidirectional stream."""
    if trace is not None:
        name = (
            _TYPES.get(StreamType(stream_type), "unknown") if stream_type in _TYPES else "unknown"
        )
        trace.log_event(
            category="http", event="stream_type_set", data={"new": name, "stream_id": stream_id}
        )


def log_data(trace: Any, stream_id: int, length: int, *, created: bool) -> None:
    """Log a DATA frame that was made, or whose header has come."""
    if trace is not None:
        trace.log_event(
            category="http",
            event="frame_created" if created else "frame_parsed",
            data=trace.encode_http3_data_frame(length=length, stream_id=stream_id),
        )


def log_headers(trace: Any, stream_id: int, length: int, fields: Fields, *, created: bool) -> None:
    """Log a HEADERS frame that was made, or has come whole."""
    if trace is not None:
        trace.log_event(
            category="http",
            event="frame_created" if created else "frame_parsed",
            data=trace.encode_http3_headers_frame(
                length=length, headers=list(fields), stream_id=stream_id
            ),
        )
