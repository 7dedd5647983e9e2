"""The messages between the two sides of a handoff, and their bytes on a link.

A link is a reliable, ordered byte stream between two processes: on one host a Unix socket in a
private directory, the peer's uid checked; between hosts TLS, both certificates checked. Each side
opens with `Hello`. Then messages of any number of handoffs interleave. Each names its connection
and its handoff id: 16 random bytes that the source draws for an offer and the destination draws for
a saved baton. The handoff id names one attempt, which claims with it, so it never appears in a log.

A released kind of message keeps its shape. A later release adds new kinds, and sends them only to
peers that read its own baton format (`Hello.formats`): so it can talk to the release before.

On the wire a message is a frame (`framing`).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from quicbaton.errors import PeerError
from quicbaton.handoff.framing import Codec
from quicbaton.limits import MAX_HANDOFF_MESSAGE_BYTES, MAX_PASSED_DESCRIPTORS
from quicbaton.reasons import Reason

#: Both sides of a link must speak the same.
PROTOCOL_VERSION: Final = 1

#: A reason in a message: the code of a `Reason`, perhaps of a later release, and a sentence.
MAX_CODE_CHARS: Final = 64
MAX_TEXT_CHARS: Final = 1024

#: A socket address as the socket module gives it; empty where the socket has only one.
Address = tuple[str | int, ...]

_Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_ConnectionId = Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=16, max_length=64)]
_Term = Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
_Natural = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Code = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CODE_CHARS)]
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
_StoreId = Annotated[bytes, msgspec.Meta(max_length=16)]


class Hello(msgspec.Struct, tag="hello", array_like=True, frozen=True, forbid_unknown_fields=True):
    """The first message on every link, from both sides."""

    version: int
    node: _Name
    pid: _Natural
    #: Baton format versions that this side reads.
    formats: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]


class HandoffMessage(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The common beginning of every message about one handoff."""

    connection_id: _ConnectionId
    handoff_id: _Id

    def __repr__(self) -> str:
        # Handoff ids are secret and batons are long: neither belongs in a log.
        return f"{type(self).__name__}(connection_id={self.connection_id.hex()})"


class Offer(HandoffMessage, frozen=True, tag="offer"):
    """Source: will you take this connection? It is still being served."""

    term: _Term
    size_bytes: _Natural
    format_version: int
    source: _Name
    audience: _Name
    #: The address to which the client sends. A destination that cannot send from there refuses,
    #: unless `proxy`.
    local: Annotated[Address, msgspec.Meta(max_length=4)]
    #: I would pass your trains and the client's datagrams on, for as long as the connection lives.
    proxy: bool
    #: The shared store in which ownership changes, by your compare-and-set; empty where it changes
    #: by my COMMITTED.
    store_id: _StoreId


class Accept(HandoffMessage, frozen=True, tag="accept"):
    """Destination: there is room; freeze and send."""

    #: I cannot send from the client's address: send for me, as you have offered.
    proxy: bool


class Refuse(HandoffMessage, frozen=True, tag="refuse"):
    """Either side: an offer or a claim request is refused. `code` is the reason."""

    code: _Code
    message: _Text


class Baton(HandoffMessage, frozen=True, tag="baton"):
    """Source: the connection, sealed."""

    sealed: bytes


class Descriptors(HandoffMessage, frozen=True, tag="descriptors"):
    """Source, on one host: open files of the application, whose descriptors come with this message.
    They belong to the next baton."""

    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PASSED_DESCRIPTORS)]


class Ready(HandoffMessage, frozen=True, tag="ready"):
    """Destination: the baton is opened, checked and rebuilt, and I am silent."""

    baton_id: _Id
    digest: _Digest


class Committed(HandoffMessage, frozen=True, tag="committed"):
    """Source: the connection is yours, in this term; I cannot send any more."""

    term: _Term
    baton_id: _Id
    digest: _Digest
    #: How long the connection has stood still, by the source's own monotonic clock, since no two
    #: hosts' clocks are ever compared; 0 when the claim is given again.
    frozen_us: _Natural


class Taken(HandoffMessage, frozen=True, tag="taken"):
    """Destination: the shared store says that the connection is mine, in this term."""

    term: _Term


class Resumed(HandoffMessage, frozen=True, tag="resumed"):
    """Destination: the connection lives here."""

    #: From the source's freeze to my first datagram.
    blackout_us: _Natural


class Abort(HandoffMessage, frozen=True, tag="abort"):
    """Either side: this handoff is over for me, whatever message you get later."""

    code: _Code
    message: _Text


class ClaimRequest(HandoffMessage, frozen=True, tag="claim_request"):
    """Destination: I have rebuilt a baton, from a file or before our link broke: is it mine?"""

    baton_id: _Id
    digest: _Digest


class Stray(HandoffMessage, frozen=True, tag="stray"):
    """Source: a datagram for the connection, as it arrived. `received_us` is CLOCK_MONOTONIC."""

    datagram: Annotated[bytes, msgspec.Meta(max_length=65_535)]
    remote: Annotated[Address, msgspec.Meta(max_length=4)]
    local: Annotated[Address, msgspec.Meta(max_length=4)]
    ecn: Annotated[int, msgspec.Meta(ge=0, le=3)]
    received_us: _Natural


class Cutover(HandoffMessage, frozen=True, tag="cutover"):
    """Destination: the client uses my connection IDs only; no strays will come any more."""


class CutoverAck(HandoffMessage, frozen=True, tag="cutover_ack"):
    """Source: I have forwarded everything, and forgotten the connection."""


class Closed(HandoffMessage, frozen=True, tag="closed"):
    """Owner: the connection is closed."""


class Moved(HandoffMessage, frozen=True, tag="moved"):
    """Owner, to a process that still forwards to it: from here on send its strays to `to`."""

    to: _Name


class MovedAck(HandoffMessage, frozen=True, tag="moved_ack"):
    """Forwarder, to the old and the new owner: from here on I forward to the new one."""


class ProxiedTrain(HandoffMessage, frozen=True, tag="proxied_train"):
    """Destination that cannot send from the client's address: send this train for me."""

    data: Annotated[bytes, msgspec.Meta(max_length=65_535)]
    #: Bytes of each datagram but the last.
    segment: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    remote: Annotated[Address, msgspec.Meta(max_length=4)]
    local: Annotated[Address, msgspec.Meta(max_length=4)]
    ecn: Annotated[int, msgspec.Meta(ge=0, le=3)]


class StreamMessage(HandoffMessage, frozen=True):
    """The common beginning of every message about a relayed stream: a stream of a connection that
    has moved, whose request still runs at the source."""

    stream_id: _Natural


class StreamBytes(StreamMessage, frozen=True, tag="stream_bytes"):
    """Either side: the next bytes of the stream, to or from the client."""

    data: bytes
    end_stream: bool


class StreamCredit(StreamMessage, frozen=True, tag="stream_credit"):
    """Either side: I have passed on this many of the bytes that you sent."""

    size_bytes: _Natural


class StreamReset(StreamMessage, frozen=True, tag="stream_reset"):
    """Either side: the sender of these bytes has reset its direction."""

    error_code: _Natural


class StreamStop(StreamMessage, frozen=True, tag="stream_stop"):
    """Either side: the receiver wants no more of your direction."""

    error_code: _Natural


class OpenStream(HandoffMessage, frozen=True, tag="open_stream"):
    """Source: the program of a WebTransport session wants one more stream. `request` is a number of
    the source's choice, which names this message in the answer."""

    request: _Natural
    unidirectional: bool


class StreamOpened(StreamMessage, frozen=True, tag="stream_opened"):
    """Owner: this is the stream for the OpenStream message `request`."""

    request: _Natural


class RelayedDatagram(HandoffMessage, frozen=True, tag="relayed_datagram"):
    """Either side: the payload of a DATAGRAM frame, to or from the client. It may be lost."""

    data: Annotated[bytes, msgspec.Meta(max_length=65_535)]


class StreamsCut(HandoffMessage, frozen=True, tag="streams_cut"):
    """Either side: no stream of this connection is relayed any more. The owner is to reset those
    that are open, the source to end the requests that run for them. `code` is the reason."""

    code: _Code


class Load(msgspec.Struct, tag="load", array_like=True, frozen=True, forbid_unknown_fields=True):
    """Either side, now and then: how busy I am."""

    name: _Name
    connections: _Natural
    #: Connections that I would take; 0 while I drain.
    room: _Natural


class Toss(msgspec.Struct, tag="toss", array_like=True, frozen=True, forbid_unknown_fields=True):
    """A datagram that is for none of the sender's connections: the receiver finds its own.

    It goes one hop: the receiver does not toss it on.
    """

    datagram: Annotated[bytes, msgspec.Meta(max_length=65_535)]
    remote: Annotated[Address, msgspec.Meta(max_length=4)]
    local: Annotated[Address, msgspec.Meta(max_length=4)]
    ecn: Annotated[int, msgspec.Meta(ge=0, le=3)]


class Precopy(
    msgspec.Struct, tag="precopy", array_like=True, frozen=True, forbid_unknown_fields=True
):
    """Source: bytes of a stream that its baton will leave out, if you keep them."""

    precopy_id: _Id
    stream_id: _Natural
    offset: _Natural
    data: bytes


class PrecopyEnd(
    msgspec.Struct, tag="precopy_end", array_like=True, frozen=True, forbid_unknown_fields=True
):
    """Source: answer when you have handled everything up to here."""

    precopy_id: _Id


class Precopied(
    msgspec.Struct, tag="precopied", array_like=True, frozen=True, forbid_unknown_fields=True
):
    """Destination: I have handled everything up to there. `kept`: whether I have all bytes."""

    precopy_id: _Id
    kept: bool


Message = (
    Hello
    | Toss
    | Load
    | Precopy
    | PrecopyEnd
    | Precopied
    | Offer
    | Accept
    | Refuse
    | Descriptors
    | Baton
    | Ready
    | Committed
    | Taken
    | Resumed
    | Abort
    | ClaimRequest
    | Stray
    | Cutover
    | CutoverAck
    | Closed
    | Moved
    | MovedAck
    | ProxiedTrain
    | StreamBytes
    | StreamCredit
    | StreamReset
    | StreamStop
    | OpenStream
    | StreamOpened
    | RelayedDatagram
    | StreamsCut
)
#: The messages about relayed streams.
RelayMessage = StreamMessage | OpenStream | RelayedDatagram | StreamsCut

#: For the messages on a link.
CODEC: Final[Codec[Message]] = Codec(Message, "a handoff message", MAX_HANDOFF_MESSAGE_BYTES)
encode = CODEC.encode
decode = CODEC.decode


def shared_formats(ours: Hello, theirs: Hello) -> frozenset[int]:
    """Baton formats that both sides read. Raises `PeerError` when the sides cannot talk."""
    if ours.version != theirs.version:
        raise PeerError(
            f"the peer speaks handoff version {theirs.version}, we speak {ours.version}: "
            "upgrade one of them",
            code=Reason.VERSION_MISMATCH,
        )
    formats = frozenset(ours.formats) & frozenset(theirs.formats)
    if not formats:
        raise PeerError("no baton format is known to both sides", code=Reason.FORMAT_MISMATCH)
    return formats
