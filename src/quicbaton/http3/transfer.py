"""Moving an HTTP/3 connection: its state out of one object and into another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from msgspec.structs import replace

from quicbaton.errors import RefusedError
from quicbaton.http3 import state as s
from quicbaton.http3.connection import H3Connection
from quicbaton.http3.state import Http3State
from quicbaton.reasons import Reason
from quicbaton.transport.state import NONE

_H3 = TypeVar("_H3", bound=H3Connection)


def export_state(h3: H3Connection, left: Collection[int] = ()) -> Http3State:
    """The state of `h3`, which stays as it is. The streams `left` are omitted: `h3` still gets
    their events, and the restored connection never hears of them.

    The state is the object's own: encode it before `h3` goes on.

    Raises RefusedError, code `not_exportable`: for another library's HTTP/3 connection, whose state
    we do not know, and for a stream in `left` on which others depend.
    """
    if not isinstance(h3, H3Connection):
        raise RefusedError(
            f"{type(h3).__qualname__} cannot be moved: use quicbaton.http3.H3Connection, which has "
            "the same methods and events",
            code=Reason.NOT_EXPORTABLE,
        )
    _refuse_critical(h3, left)
    h3.forget_finished_streams()
    _refuse_torn_sessions(h3, left)
    state = h3._state
    now_us = h3._clock_us()
    # A full budget is full: the time at which it became so says nothing any more.
    for name in ("requests_at_us", "resets_at_us", "idle_frames_at_us"):
        if now_us == NONE or getattr(state, name) <= now_us:
            setattr(state, name, 0)
    if not left:
        return state
    streams = {
        stream_id: stream for stream_id, stream in state.streams.items() if stream_id not in left
    }
    sessions = {
        session_id: session
        for session_id, session in state.sessions.items()
        if session_id not in left
    }
    return replace(state, streams=streams, sessions=sessions)


def with_members(h3: H3Connection | None, left: list[int]) -> list[int]:
    """The streams `left`, and for a WebTransport session all of its streams."""
    sessions = sessions_among(h3, left)
    if h3 is None or not sessions:
        return left
    members = [
        stream_id
        for stream_id, stream in h3._streams.items()
        if stream.kind == s.WEBTRANSPORT and stream.link in sessions
    ]
    return list(dict.fromkeys((*left, *members)))


def sessions_among(h3: H3Connection | None, stream_ids: Collection[int]) -> set[int]:
    """Those of the streams that are WebTransport sessions."""
    return set() if h3 is None else h3._state.sessions.keys() & set(stream_ids)


def restore(quic: Any, state: Http3State, cls: type[_H3] = H3Connection) -> _H3:  # type: ignore[assignment]
    """A connection over `quic` that goes on where the exported one stopped. Sends nothing.

    `cls` is the class of the result: our `H3Connection` or a subclass, whose `__init__` is not
    called. `state` belongs to it from here on.
    """
    h3 = cls.__new__(cls)
    h3._attach(quic, state)
    return h3


def _refuse_critical(h3: H3Connection, left: Collection[int]) -> None:
    """RFC 9114 §6.2.1: a connection lives as long as its control and QPACK streams."""
    for stream_id in left:
        stream = h3._streams.get(stream_id)
        if stream_id & 2 and (stream is None or stream.kind != s.WEBTRANSPORT):
            raise RefusedError(
                f"stream {stream_id} belongs to no request: it cannot stay behind when the "
                "connection moves",
                code=Reason.NOT_EXPORTABLE,
            )


def _refuse_torn_sessions(h3: H3Connection, left: Collection[int]) -> None:
    """All streams of a WebTransport session move together or stay together."""
    sessions = sessions_among(h3, left)
    if not sessions:
        return
    for stream_id, stream in h3._streams.items():
        is_member = stream.kind == s.WEBTRANSPORT and stream.link in sessions
        if is_member and stream_id not in left:
            raise RefusedError(
                f"stream {stream_id} belongs to a WebTransport session that stays behind: leave it "
                "there, too",
                code=Reason.NOT_EXPORTABLE,
            )
