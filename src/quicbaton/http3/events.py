"""HTTP/3's events for a program: aioquic's classes, and classes for news that aioquic omits."""

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
    """The peer's message is malformed, or its stream broke another rule. HTTP/3 has reset the
    stream, or answered it with 431, and this is its last event. Only for streams that the program
    knows."""

    stream_id: int
    error_code: int
    reason: str


@dataclass
class GoawayReceived(H3Event):
    """The peer goes away (RFC 9114 §5.2). From a server: requests from `identifier` on were not and
    will not be processed. From a client: `identifier` is a push ID."""

    identifier: int


@dataclass
class PriorityReceived(H3Event):
    """The client changed a request's priority (RFC 9218 §7). The transport follows it already."""

    stream_id: int
    urgency: int
    incremental: bool


@dataclass
class WebTransportSessionClosed(H3Event):
    """A WebTransport session is over and its streams are reset. `code` and `reason` come from the
    peer's program; 0 and an empty text mean that it just ended the session."""

    session_id: int
    code: int
    reason: str


@dataclass
class WebTransportSessionDraining(H3Event):
    """The peer asks the program to end a WebTransport session at its convenience."""

    session_id: int
