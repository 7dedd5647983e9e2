"""What can be asked of a running process over its control socket, and the answers.

A frame is a 4-byte big-endian length and a MessagePack array that starts with the struct's name.
A connection of the control socket carries one command and its answers, except that `OpenLink`
turns it into a handoff link (`quicbaton.handoff.messages`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from quicbaton.asyncio.peers.names import parse_slot
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


class HandOffRelayed(_Frame, tag="handoff_relayed"):
    """As `HandOff`; if `to` cannot send from the address that the client talks to, this process
    sends for it, for as long as the connection lives. `code` is then `relayed`."""

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


class TakePeer(_Frame, tag="take_peer"):
    """Comes with a TCP connection from another host: talk to it. Answered with `Answer`."""


class Freeze(_Frame, tag="freeze"):
    """As `Save`, for an asker who keeps the baton: answered with `Frozen`. When the asker has it
    safe it says `Kept`, which is answered with `Answer`; unless it does, the connection thaws."""

    connection: str


class Kept(_Frame, tag="kept"):
    """The baton of `Frozen` is safe."""


class Revive(_Frame, tag="revive"):
    """As `Resume`, with the baton itself. Answered with `Answer`."""

    sealed: bytes


# --- commands to a worker, from its supervisor ------------------------------------------------


class WorkerStatus(_Frame, tag="worker"):
    """How are you? Answered with `WorkerState`, or with `Answer` by who is no worker."""


class Begin(_Frame, tag="begin"):
    """Serve from now on: answered with `Progress` while connections come, then with `Answer`.

    `predecessor` is the control socket of the worker to take over from; empty: nobody's.
    """

    workers: dict[int, str]  # who else is on the port: worker number -> name
    predecessor: str
    deadline_s: float
    #: IDs of this place whose connections live in other workers -> their numbers.
    elsewhere: dict[bytes, int]
    #: Nobody else can own IDs of this place.
    may_reset: bool


class PassSocket(_Frame, tag="pass"):
    """Answered with `SocketOf` and the descriptor of the port's socket number `slot`."""

    slot: int


class PassRoster(_Frame, tag="pass_roster"):
    """Answered with `SocketOf` and the descriptor of the worker's own roster."""


class Survey(_Frame, tag="survey"):
    """The process `pid` is dead. Answered with `Survivors` once all that it wrote was handled."""

    pid: int


class Bury(_Frame, tag="bury"):
    """End of a survey: what the process `pid` had is settled. Answered with `Answer`.

    All workers have answered; the connections in `names` live, and if `sure` no other does that
    was its. `elsewhere` and `may_reset` are as in `Begin`, for whoever has its number, `slot`.
    """

    pid: int
    slot: int
    sure: bool
    names: list[bytes]
    elsewhere: dict[bytes, int]
    may_reset: bool


# --- commands to a supervisor -----------------------------------------------------------------


class Reload(_Frame, tag="reload"):
    """Replace all workers by new ones. Answered with `ReloadStep`s, then with `Answer`. What is
    negative is the service's own."""

    health_timeout_s: float
    grace_s: float  # for what cannot move at once: running requests above all


class ServiceStatus(_Frame, tag="service"):
    """Answered with `Service`."""


class Stop(_Frame, tag="stop"):
    """Refuse new clients, hand connections to the process at `to` if that is not empty, let
    running requests end, close, exit. Answered with `Left`. Workers and lone servers take it,
    too. A negative `grace_s` is the server's own."""

    grace_s: float
    to: str


class Drain(_Frame, tag="drain"):
    """Move connections to other processes, evenly. Answered with `DrainProgress`, then `Drained`.

    `count` is how many; -1 is all, and those that still come are passed on until `StopDraining`.
    """

    to: list[str]
    relay: bool  # where a destination cannot send from the client-facing address
    count: int
    deadline_s: float


class StopDraining(_Frame, tag="stop_draining"):
    """Keep connections again. Answered with `Answer`."""


class ReadFigures(_Frame, tag="read_figures"):
    """Answered with `Figures`."""


# --- answers ----------------------------------------------------------------------------------


class ConnectionInfo(_Frame):
    """One live connection."""

    connection: str  # its name: our first connection ID, hexadecimal
    state: str  # open, asleep, relayed (another process sends for it), handshake
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


class Frozen(_Frame, tag="frozen"):
    """A connection in its baton."""

    sealed: bytes


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


class WorkerState(_Frame, tag="worker_state"):
    """Answer to `WorkerStatus`."""

    slot: int
    pid: int
    state: str  # ready, serving, arriving, departing, stopping
    version: str
    sockets: list[int]  # inode numbers of the port's sockets, in order
    connections: int
    handshakes: int
    accepted: int
    tossed: int  # datagrams that the kernel steered here and that were another worker's
    reset: int
    unlisted: int  # connections that found no room in the roster


class Left(_Frame, tag="left"):
    """Answer to `Stop`: what became of the connections."""

    moved: int
    closed: int
    cut: int  # of those closed: they had requests that had not ended


class SocketOf(_Frame, tag="socket_of"):
    """Which worker's it is, and how many there are."""

    slot: int
    slots: int


class Survivors(_Frame, tag="survivors"):
    """Which connections live in this process although others issued their IDs."""

    ids: list[bytes]  # of connections that this process owns
    passed_on: list[bytes]  # of connections whose strays it forwards
    names: list[bytes]  # of connections that it owns


class ReloadStep(_Frame, tag="reload_step"):
    """One worker's part of a reload, how far it is."""

    slot: int
    slots: int
    phase: str  # starting, moving, done, failed
    pid: int
    moved: int
    left: int
    cut: int
    seconds: float
    message: str


class SlotInfo(_Frame):
    """One worker as its supervisor sees it."""

    slot: int
    pid: int  # 0: none
    state: str  # starting, serving, backing off, ...
    control: str
    restarts: int
    connections: int
    handshakes: int
    accepted: int
    tossed: int
    reset: int
    message: str  # why it is down


class Service(_Frame, tag="service_state"):
    """Answer to `ServiceStatus`."""

    pid: int
    address: str
    slots: list[SlotInfo]


class DrainProgress(_Frame, tag="drain_progress"):
    """How far a drain is."""

    moved: int
    left: int


class Drained(_Frame, tag="drained"):
    """What became of a process's connections."""

    moved: int
    relayed: int
    left: int  # still here: refused, or not moved in time
    running: int  # streams of connections that moved whose requests still run here
    refused: dict[str, int]  # by reason code, at the last try
    examples: list[str]  # "connection: why", a few
    seconds: float
    blackouts_us: list[int]  # of a sample of 10,000 at most


class Figures(_Frame, tag="figures"):
    """A process's counters and gauges; counters begin with the process."""

    name: str
    pid: int
    node: int
    worker: int
    draining: bool
    gauges: dict[str, int]
    counters: dict[str, int]
    handoffs: dict[str, int]  # "given ok", "kept cutover_pending", "resumed ok", …
    dropped: dict[str, int]  # datagrams that reached nobody, by reason
    placements: dict[str, int]  # placed, stayed, or why not
    refused_peers: dict[str, int]  # connections of other hosts, by reason
    blackouts: list[int]  # how many fell into each bucket of `BLACKOUT_BUCKETS_US`, then the rest
    blackout_sum_us: int


#: Upper bounds of the blackout histogram.
BLACKOUT_BUCKETS_US: Final = (
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
)


Frame = (
    ListConnections
    | HandOff
    | HandOffRelayed
    | Save
    | Resume
    | Join
    | Introduce
    | TakeOver
    | OpenLink
    | TakePeer
    | Freeze
    | Kept
    | Revive
    | Frozen
    | Drain
    | StopDraining
    | ReadFigures
    | Connections
    | Answer
    | Joined
    | SocketPassed
    | Stopped
    | Progress
    | WorkerStatus
    | Begin
    | PassSocket
    | PassRoster
    | Survey
    | Bury
    | Reload
    | ServiceStatus
    | DrainProgress
    | Drained
    | Figures
    | Stop
    | WorkerState
    | Left
    | SocketOf
    | Survivors
    | ReloadStep
    | Service
)

#: What may be asked from another host: nothing that names a file here or passes a descriptor.
REMOTE_COMMANDS: Final[frozenset[type[Frame]]] = frozenset(
    {
        ListConnections,
        HandOff,
        HandOffRelayed,
        Freeze,
        Kept,
        Revive,
        OpenLink,
        Drain,
        StopDraining,
        ReadFigures,
        Reload,
        ServiceStatus,
        Stop,
    }
)


def may_come_from_afar(frame: Frame) -> bool:
    """True for what another host may ask. A path of its own means nothing here, so destinations
    must have names that all hosts know."""
    if isinstance(frame, HandOff | HandOffRelayed | Stop):
        names = [frame.to] if frame.to else []
    else:
        names = frame.to if isinstance(frame, Drain) else []
    return type(frame) in REMOTE_COMMANDS and all(parse_slot(name) for name in names)


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
