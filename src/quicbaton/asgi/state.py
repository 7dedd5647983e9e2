"""What of a connection's requests is data: what moves when the connection does, and is not relayed.

A response that names a file is one once the program has named it: path, descriptor, validator and
offset. A request with which the program has not begun is one: its header section, and what has come
of its body; the program begins with it at the next owner, and nowhere else. What a task works on
cannot be said here, and stays behind (`running_streams`), also if the task has taken nothing yet
and said nothing: what else it has done, nobody but the program knows.
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
    """One connection's. It travels as it is."""

    downloads: list[Promise]
    requests: list[UnbegunRequest]

    @property
    def is_empty(self) -> bool:
        return not self.downloads and not self.requests


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(AsgiState)


def encode(state: AsgiState) -> bytes:
    """Nothing where there is nothing to say, which is most connections."""
    return b"" if state.is_empty else _ENCODER.encode(state)


def decode(data: bytes) -> AsgiState:
    """Raises PeerError (`application`) for what is no such state."""
    if not data:
        return AsgiState([], [])
    try:
        return _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise PeerError(
            f"not an ASGI server's state: {error}", code=Reason.IMPORT_FAILED
        ) from error
