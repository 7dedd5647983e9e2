"""A connection as one value: transport, HTTP/3 and the application's bytes.

Only this module knows all three. Encoding is MessagePack arrays of the state structs, field by
field: nothing is optional, nothing has a default, so what decodes is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from quicbaton.baton.errors import BatonMalformedError
from quicbaton.baton.precopy import Pieces, Precopied, put_back
from quicbaton.http3.state import Http3State
from quicbaton.transport.state import ConnectionState


class RelayedSending(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The client's bytes on their way to the process where the request runs
    (`handoff.stream_relay.Sending`)."""

    uncredited_bytes: int
    kept: bytes
    fin_kept: bool
    ended: bool
    abandoned: bool


class RelayedReceiving(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The bytes that have come from that process (`handoff.stream_relay.Receiving`)."""

    uncredited_bytes: int
    released_bytes: int
    ended: bool
    abandoned: bool


class RelayedStream(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A stream whose request still runs at the handoff's source, or beyond it. Its bytes pass
    through the link between the two, in both directions. Its transport state has moved like any
    other's."""

    stream_id: int
    #: Bytes that the application was given and, having paused its reading, has not consumed yet.
    withheld_bytes: int
    #: Whether it is the CONNECT stream of a WebTransport session: later streams and datagrams of
    #: the session then belong to the source, too.
    is_session: bool
    #: Processes between the handoff's source and the one where the request runs. If there are any,
    #: the relay goes on from its state at the source; a direction that was over before is None.
    hops: int
    to_left: RelayedSending | None
    from_left: RelayedReceiving | None


class Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Everything that moves with a connection."""

    connection: ConnectionState
    http3: Http3State | None
    application: bytes
    #: When the connection was frozen, in µs of the monotonic clock of the boot `host`. The next
    #: owner measures the transit with it.
    frozen_at_us: int
    host: bytes
    #: The parts of streams that went ahead; None where none did, as in every file.
    precopied: Precopied | None
    #: Streams that stay behind. The state of HTTP/3 and of the application omits them.
    relayed: list[RelayedStream]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Snapshot)
_NONE: Final[Mapping[bytes, Pieces]] = MappingProxyType({})


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot as the text that a baton seals. It holds keys, and must not leave the process in
    any other way."""
    return _ENCODER.encode(snapshot)


def decode_snapshot(payload: bytes, precopies: Mapping[bytes, Pieces] = _NONE) -> Snapshot:
    """The whole snapshot of `payload`. Bytes that went ahead are copied from `precopies`.

    Raises:
        BatonMalformedError: a field is missing or has another type.
        BatonPrecopyError: some of the bytes that went ahead are missing.
    """
    try:
        snapshot = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The decoder's message could quote a secret: it is not passed on.
        raise BatonMalformedError(
            "the baton's content is not a connection of this format version"
        ) from None
    if snapshot.precopied is not None:
        pieces = precopies.get(snapshot.precopied.precopy_id) or Pieces()
        put_back(snapshot.connection, snapshot.precopied, pieces)
    if any(
        not stream.hops and stream.stream_id not in snapshot.connection.streams
        for stream in snapshot.relayed
    ):
        raise BatonMalformedError("the baton relays a stream that the connection does not have")
    return snapshot
