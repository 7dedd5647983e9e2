"""What HTTP/3 tells a program: aioquic's event classes, and those of what it does not tell."""

from __future__ import annotations

from dataclasses import dataclass

from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    Headers,
    HeadersReceived,
    PushPromiseReceived,
    WebTransportStreamDataReceived,
)

__all__ = [
    "DataReceived",
    "DatagramReceived",
    "GoawayReceived",
    "H3Event",
    "Headers",
    "HeadersReceived",
    "PriorityReceived",
    "PushPromiseReceived",
    "StreamFailed",
    "WebTransportSessionClosed",
    "WebTransportSessionDraining",
    "WebTransportStreamDataReceived",
]


@dataclass
class StreamFailed(H3Event):
    """The peer's message is malformed, or its stream broke another rule: HTTP/3 has reset the
    stream, or answered it with 431, and will say nothing more of it. Told only of streams that the
    program knows."""

    stream_id: int
    error_code: int
    reason: str


@dataclass
class GoawayReceived(H3Event):
    """The peer goes away (RFC 9114 §5.2): a server has not processed and will not process requests
    from `identifier` on; from a client it is a push ID."""

    identifier: int


@dataclass
class PriorityReceived(H3Event):
    """The client changed a request's priority (RFC 9218 §7); the transport obeys already."""

    stream_id: int
    urgency: int
    incremental: bool


@dataclass
class WebTransportSessionClosed(H3Event):
    """A WebTransport session is over; its streams are reset. `code` and `reason` are what the
    peer's program said, 0 and nothing when it just ended the session."""

    session_id: int
    code: int
    reason: str


@dataclass
class WebTransportSessionDraining(H3Event):
    """The peer asks to end a WebTransport session when that suits."""

    session_id: int
