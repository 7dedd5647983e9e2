"""A connection as one value: transport, HTTP/3 and the application's bytes.

Only this module knows all three. Encoding is MessagePack arrays of the state structs, field by
field: nothing is optional, nothing has a default, so what decodes is complete.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quicbaton.baton.errors import BatonMalformedError
from quicbaton.http3.state import Http3State
from quicbaton.transport.state import ConnectionState


class Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Everything that moves with a connection."""

    connection: ConnectionState
    http3: Http3State | None
    application: bytes
    #: When the connection was frozen, in µs of the monotonic clock of the boot `host`: the next
    #: owner measures the transit with it.
    frozen_at_us: int
    host: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot as the text that a baton seals. It holds keys: it must not leave the process
    in any other way."""
    return _ENCODER.encode(snapshot)


def decode_snapshot(payload: bytes) -> Snapshot:
    """The snapshot of `payload`; BatonMalformedError unless every field is there and typed."""
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The decoder's message could quote a value: it is not passed on.
        raise BatonMalformedError(
            "the baton's content is not a connection of this format version"
        ) from None
