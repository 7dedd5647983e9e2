"""The part of a connection's requests that is data: it moves with the connection, unrelayed.

A response that names a file is data once the program has named it: path, descriptor, validator and
offset. A request with which the program has not begun is data: its header section, and the part of
its body that has come. The program begins with it at the next owner, and nowhere else. A request
that a task works on stays behind (`running_streams`). That holds even for a task that has taken and
said nothing yet: only the program knows what else it has done.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quicbaton.errors import PeerError
from quicbaton.files.downloads import Promise
from quicbaton.reasons import Reason


class UnbegunRequest(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A request with which no program has begun."""

    stream_id: int
    headers: list[tuple[bytes, bytes]]
    body: bytes  # as far as it has come
    ended: bool


class AsgiState(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The state of one connection, as it travels."""

    downloads: list[Promise]
    requests: list[UnbegunRequest]

    @property
    def is_empty(self) -> bool:
        return not self.downloads and not self.requests


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(AsgiState)


def encode(state: AsgiState) -> bytes:
    """The state as bytes; empty where there is nothing to say, as for most connections."""
    return b"" if state.is_empty else _ENCODER.encode(state)


def decode(data: bytes) -> AsgiState:
    """Raises PeerError (`application`) for bytes that are no such state."""
    if not data:
        return AsgiState([], [])
    try:
        return _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise PeerError(
            f"not an ASGI server's state: {error}", code=Reason.IMPORT_FAILED
        ) from error
