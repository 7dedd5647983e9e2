"""The path of a client's first request, read from events that the program has not taken yet.

A placement policy that chooses the process by that path must know it before the program does, since
the process that begins to answer a request has to finish it. The events stay where they are, and
move with the connection if the policy decides so.
"""

from __future__ import annotations

from collections.abc import Iterable

from quicbaton.http3 import qpack
from quicbaton.http3.codes import FrameType
from quicbaton.http3.errors import ProtocolError
from quicbaton.http3.frames import pull_header
from quicbaton.limits import MAX_HELD_REQUEST_BYTES
from quicbaton.transport.state import Event, StreamDataEvent

_KNOWN = frozenset(FrameType)


def first_path(events: Iterable[Event]) -> str | None:
    """The path of the first request whose header section is whole.

    None while there is none. Empty for one without a path, such as a stream that does not begin
    with a request: `H3Connection` reports the error.
    """
    begun: dict[int, bytearray] = {}
    for event in events:
        # RFC 9000 §2.1: a client's bidirectional stream, which RFC 9114 §4.1 makes a request.
        if type(event) is StreamDataEvent and not event.stream_id & 3:
            begun.setdefault(event.stream_id, bytearray()).extend(event.data)
    paths = (_path_of(bytes(data)) for data in begun.values())
    return next((path for path in paths if path is not None), None)


def _path_of(stream: bytes) -> str | None:
    at = 0
    while (header := pull_header(stream, at)) is not None:
        kind, size, at = header
        if kind == FrameType.HEADERS and size <= MAX_HELD_REQUEST_BYTES:
            if at + size <= len(stream):
                return _path_in(stream[at : at + size])
            break
        if kind in _KNOWN or size > MAX_HELD_REQUEST_BYTES:
            return ""
        # RFC 9114 §9: a frame of an unknown type is skipped.
        at += size
    return None if len(stream) <= MAX_HELD_REQUEST_BYTES else ""


def _path_in(block: bytes) -> str:
    """The value of `:path` (RFC 9114 §4.3.1) in a header block."""
    try:
        _, request = qpack.decode_request(block)
    except ProtocolError:
        return ""
    return request.path.decode("latin-1")
