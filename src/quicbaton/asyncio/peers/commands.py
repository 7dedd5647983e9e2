"""What can be asked of a running process over its control socket, and the answers.

A frame is a 4-byte big-endian length and a MessagePack array that starts with the struct's name.
A connection of the control socket carries one command and its answers, except that `OpenLink`
turns it into a handoff link (`quicbaton.handoff.messages`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from quicbaton.errors import PeerError
from quicbaton.limits import MAX_COMMAND_BYTES

_LENGTH_BYTES: Final = 4


class _Frame(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    pass


# --- commands ---------------------------------------------------------------------------------


class ListConnections(_Frame, tag="list"):
    """Answered with `Connections`."""


class HandOff(_Frame, tag="handoff"):
    """Move a connection to the process at the control socket `to`. Answered with `Answer`."""

    connection: str
    to: str


class Save(_Frame, tag="save"):
    """Freeze a connection into a baton in a new file. Answered with `Answer`."""

    connection: str
    path: str


class Resume(_Frame, tag="resume"):
    """Bring a saved baton back to life here. Answered with `Answer`."""

    path: str


class Join(_Frame, tag="join"):
    """Share the UDP port: answered with `Joined` and the socket's descriptor."""

    name: str


class Introduce(_Frame, tag="introduce"):
    """Another process shares the port: strays for its IDs go to `name`. `Answer`."""

    worker: int
    name: str


class TakeOver(_Frame, tag="takeover"):
    """Replace this process: answered with `SocketPassed` and the descriptor, with `Stopped` once a
    link to `name` is up, with `Progress` as connections move, and with `Answer` when none is left.
    """

    name: str
    deadline_s: float


class OpenLink(_Frame, tag="link"):
    """From here on this is a handoff link."""


# --- answers ----------------------------------------------------------------------------------


class ConnectionInfo(_Frame):
    """One live connection."""

    connection: str  # its name: our first connection ID, hexadecimal
    state: str  # open, handshake
    peer: str
    server_name: str
    alpn: str
    age_s: float
    rtt_ms: float
    streams: int
    buffered_bytes: int
    term: int
    cutover_pending: bool


class Connections(_Frame, tag="connections"):
    """Answer to `ListConnections`."""

    pid: int
    address: str
    accepted: int
    resumed: int
    given: int
    datagrams_sent: int
    datagrams_received: int
    datagrams_forwarded: int
    connections: list[ConnectionInfo]


class Answer(_Frame, tag="answer"):
    """How a command ended; `code` is `ok` or says why not."""

    ok: bool
    code: str
    message: str


class Joined(_Frame, tag="joined"):
    """The asker's place on the port, and who else is there."""

    node: int
    worker: int
    workers: dict[int, str]  # worker number -> name


class SocketPassed(_Frame, tag="socket"):
    """The successor's place, who else is on the port, and the predecessor's own name."""

    node: int
    worker: int
    workers: dict[int, str]
    name: str


class Stopped(_Frame, tag="stopped"):
    """The socket is the successor's to read; these IDs are the predecessor's until they move."""

    connection_ids: list[bytes]


class Progress(_Frame, tag="progress"):
    """How far a takeover is."""

    moved: int
    left: int
    waiting: list[str]  # "connection: reason" of those that cannot move yet


Frame = (
    ListConnections
    | HandOff
    | Save
    | Resume
    | Join
    | Introduce
    | TakeOver
    | OpenLink
    | Connections
    | Answer
    | Joined
    | SocketPassed
    | Stopped
    | Progress
)

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """A frame's bytes, length first."""
    body = _ENCODER.encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class CommandReader:
    """Cuts a stream into frames; what follows an `OpenLink` is left in `rest`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Frame | None:
        """Take in bytes; the next whole frame, or None. Call with b"" for further ones."""
        self._buffer += data
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if length > MAX_COMMAND_BYTES:
            raise PeerError(
                f"a command of {length} bytes, the limit is {MAX_COMMAND_BYTES}",
                code="message_too_long",
            )
        end = _LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        try:
            return _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PeerError(f"not a command: {error}", code="malformed_message") from error
