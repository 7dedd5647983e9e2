"""The state of an HTTP/3 connection that must move, as plain data.

The rules of `transport.state` hold here as well: no defaults, NONE (-1) for a number that does not
exist, connection time. `H3Connection` works on these structs directly: a snapshot is one `encode`.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

#: `Http3Stream.kind`: the meaning of its bytes.
REQUEST: Final = 0  # frames of a request and its response
PUSH: Final = 1  # frames of a pushed response, after its push ID
UNTYPED: Final = 2  # a unidirectional stream whose type has not come as a whole
WEBTRANSPORT: Final = 3  # a WebTransport program's bytes, after the session ID
IGNORED: Final = 4  # its bytes are dropped until the transport forgets it

#: `Http3Stream.receive` and `.send`: the phase of a message (RFC 9114 §4.1).
HEAD: Final = 0  # no header section yet, or interim responses only
BODY: Final = 1
TRAILED: Final = 2  # after the trailers
ENDED: Final = 3

#: Bits of `Http3Stream.flags`.
HEAD_REQUEST: Final = 1  # the response has no content, whatever its content-length says
INTERIM: Final = 2  # an interim response came
TUNNEL: Final = 4  # a CONNECT request: DATA frames only, and no content-length
BEGUN: Final = 8  # a frame of an unknown type has come: no WebTransport stream begins here
STOPPED: Final = 16  # we asked the peer to stop, or will: its end may never be seen here
EARLY: Final = 32  # a WebTransport stream that came before its session, which is awaited
FIN_HELD: Final = 64  # and so is its end
CANCELLED: Final = 128  # the client has given the request up, and that was counted
REFUSED: Final = 256  # a CONNECT request that was refused: datagrams may be on their way

#: Bits of `Http3State.flags`.
OFFERS_WEBTRANSPORT: Final = 1
OFFERS_DATAGRAMS: Final = 2
DONE: Final = 4  # the connection was closed for an error of HTTP/3


class Http3Stream(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A stream that HTTP/3 has not finished with."""

    kind: int
    receive: int
    send: int
    flags: int
    frame_type: int  # of the frame whose header has come; NONE between frames
    frame_left: int  # bytes of its payload that are still to come
    held: bytearray | None  # begun: a stream's or frame's header, a field section
    link: int  # the push ID of a push, the session ID of a WebTransport stream; NONE
    receive_left: int  # content that the coming message's content-length still promises; NONE
    send_left: int  # the same for the message that goes


class Http3Session(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """An open WebTransport session: how far the capsules on its CONNECT stream are read."""

    capsule_type: int  # of the capsule whose header has come; NONE between capsules
    capsule_left: int
    capsule_held: bytearray | None


class Http3State(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The state of one connection."""

    flags: int
    received_settings: dict[int, int] | None  # None before the peer's SETTINGS came
    local_control_stream: int
    local_encoder_stream: int
    local_decoder_stream: int
    peer_control_stream: int
    peer_encoder_stream: int
    peer_decoder_stream: int
    control_frame_type: int  # the peer's control stream, as in `Http3Stream`
    control_frame_left: int
    control_held: bytes
    decoder_held: bytes  # half an instruction from the peer's QPACK decoder
    max_push_id: int  # sent by a client, received by a server
    next_push_id: int
    push_streams: int  # a client's: a bit for each push ID whose stream has come
    goaway_sent: int  # requests (to a client: pushes) from here on are refused; NONE
    goaway_received: int
    next_request_id: int  # a request stream from here on was not seen yet
    priorities: dict[int, int]  # of requests that have not come: urgency * 2 + incremental
    # When each budget of `rates` is whole again, in connection time; 0 when it is.
    requests_at_us: int
    resets_at_us: int
    idle_frames_at_us: int
    streams: dict[int, Http3Stream]
    sessions: dict[int, Http3Session]  # by the ID of their CONNECT stream, which is among `streams`


def new_stream(kind: int, *, receive: int = HEAD, send: int = HEAD, link: int = -1) -> Http3Stream:
    """A stream on which nothing has come or gone."""
    return Http3Stream(kind, receive, send, 0, -1, 0, None, link, -1, -1)


def new_state(*, flags: int, max_push_id: int) -> Http3State:
    """A connection that has sent and received nothing."""
    return Http3State(
        flags=flags,
        received_settings=None,
        local_control_stream=-1,
        local_encoder_stream=-1,
        local_decoder_stream=-1,
        peer_control_stream=-1,
        peer_encoder_stream=-1,
        peer_decoder_stream=-1,
        control_frame_type=-1,
        control_frame_left=0,
        control_held=b"",
        decoder_held=b"",
        max_push_id=max_push_id,
        next_push_id=0,
        push_streams=0,
        goaway_sent=-1,
        goaway_received=-1,
        next_request_id=0,
        priorities={},
        requests_at_us=0,
        resets_at_us=0,
        idle_frames_at_us=0,
        streams={},
        sessions={},
    )
