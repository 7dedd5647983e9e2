"""Commands to a running process over its control socket, and the answers.

Each is a frame (`handoff.framing`). A connection of the control socket carries one command and its
answers, except that `OpenLink` turns it into a handoff link (`quicbaton.handoff.messages`).
"""

from __future__ import annotations

from typing import Final

from quicbaton.handoff.framing import Codec
from quicbaton.handoff.timeline import Timeline
from quicbaton.limits import MAX_COMMAND_BYTES
from quicbaton.reasons import Reason, heard
from quicbaton.service.peers.frame import CommandFrame
from quicbaton.service.peers.names import ProcessName
from quicbaton.service.peers.service_commands import (
    Begin,
    DeclareDead,
    EndProxied,
    Left,
    ListOldProcesses,
    OldProcesses,
    OldProcessInfo,
    PassRoster,
    PassSocket,
    PassTallies,
    ReadOldProcess,
    Reload,
    ReloadStep,
    Scale,
    Service,
    ServiceStatus,
    ShareSockets,
    SocketOf,
    Stop,
    Survey,
    Survivors,
    Upgrade,
    WorkerInfo,
    WorkerState,
    WorkerStatus,
)
from quicbaton.service.peers.tally import ReadTallies, Tallies

#: Frames that are defined elsewhere, beside the public ones of this module.
__all__ = [
    "Begin",
    "DeclareDead",
    "EndProxied",
    "Left",
    "ListOldProcesses",
    "OldProcessInfo",
    "OldProcesses",
    "PassRoster",
    "PassSocket",
    "PassTallies",
    "ReadOldProcess",
    "ReadTallies",
    "Reload",
    "ReloadStep",
    "Scale",
    "Service",
    "ServiceStatus",
    "ShareSockets",
    "SocketOf",
    "Stop",
    "Survey",
    "Survivors",
    "Tallies",
    "Upgrade",
    "WorkerInfo",
    "WorkerState",
    "WorkerStatus",
]


# --- commands ---------------------------------------------------------------------------------


class ListConnections(CommandFrame, tag="list"):
    """Answered with `Connections`."""


class ListByWorker(CommandFrame, tag="list_by_worker"):
    """Answered with `ByWorker`."""


class HandOff(CommandFrame, tag="handoff"):
    """Move a connection to the process at the control socket `to`. Answered with `Answer`."""

    connection: str
    to: str


class HandOffProxied(CommandFrame, tag="handoff_proxied"):
    """As `HandOff`; but if `to` cannot send from the address that the client talks to, this process
    sends for it, for as long as the connection lives. `code` is then `proxied`."""

    connection: str
    to: str


class Save(CommandFrame, tag="save"):
    """Freeze a connection into a baton in a new file. Answered with `Answer`."""

    connection: str
    path: str


class Resume(CommandFrame, tag="resume"):
    """Bring a saved baton back to life here. Answered with `Answer`."""

    path: str


class Join(CommandFrame, tag="join"):
    """Share the UDP port: answered with `Joined` and the socket's descriptor."""

    name: str


class PassListener(CommandFrame, tag="pass_listener"):
    """Accept from the TCP socket of the process, too: answered with `SocketOf` and its descriptor,
    or with `Answer` where there is none."""


class Introduce(CommandFrame, tag="introduce"):
    """Another process shares the port: strays for its IDs go to `name`. Answered with `Answer`."""

    worker: int
    name: str


class TakeOver(CommandFrame, tag="takeover"):
    """Replace this process. Answered with `SocketPassed` and the descriptor, with `Stopped` once a
    link to `name` is up, with `Progress` as connections move, and with `Answer` when none is left.

    Requests that still run here have until the deadline, too, and are cut then. If `linger_s` is
    not 0, they have that long after the answer, and the process lives on for them.
    """

    name: str
    deadline_s: float
    linger_s: float


class TakeOverEarly(CommandFrame, tag="takeover_early"):
    """As `TakeOver`; but a process that only forwards for connections, or in which only handshakes
    have not ended, is not waited for. It answers and lives on, and says before that, with
    `PassBack`, which datagrams it still needs. A process of release 0.2 hangs up on this."""

    name: str
    deadline_s: float
    linger_s: float


class OpenLink(CommandFrame, tag="link"):
    """Makes this channel a handoff link."""


class TakePeer(CommandFrame, tag="take_peer"):
    """Comes with a TCP connection from another host, to be served. Answered with `Answer`."""


class Freeze(CommandFrame, tag="freeze"):
    """As `Save`, but the caller keeps the baton: answered with `Frozen`. The caller says `Kept`
    once it has stored the baton, which is answered with `Answer`. Without `Kept` the connection
    thaws."""

    connection: str


class Kept(CommandFrame, tag="kept"):
    """The baton of `Frozen` is stored."""


class Revive(CommandFrame, tag="revive"):
    """As `Resume`, with the baton itself. Answered with `Answer`."""

    sealed: bytes


class ReadTimelines(CommandFrame, tag="read_timelines"):
    """The remembered timelines of handoffs of connections whose name begins with `connection`. Open
    ones get up to `wait_s` to settle. Answered with `Timelines`."""

    connection: str
    wait_s: float


# --- commands to a server or a whole service -------------------------------------------------


class Drain(CommandFrame, tag="drain"):
    """Move connections to other processes, evenly. Answered with `DrainProgress`, then `Drained`.

    `count` is how many; -1 is all, and those that still come are passed on until `StopDraining`.
    """

    to: list[str]
    proxy: bool  # where a destination cannot send from the client-facing address
    count: int
    deadline_s: float


class StopDraining(CommandFrame, tag="stop_draining"):
    """Keep connections again. Answered with `Answer`."""


class ReadFigures(CommandFrame, tag="read_figures"):
    """Answered with `Figures`."""


# --- answers ----------------------------------------------------------------------------------


class ConnectionInfo(CommandFrame):
    connection: str  # its name: our first connection ID, hexadecimal; over TCP "tcp-" and a number
    state: str  # open, asleep, closing, proxied (another process sends for it), handshake, tcp
    peer: str
    server_name: str
    alpn: str
    age_s: float
    rtt_ms: float
    streams: int  # over TCP: requests that run
    buffered_bytes: int
    term: int
    cutover_pending: bool


class Connections(CommandFrame, tag="connections"):
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


class WorkerConnections(CommandFrame):
    """The connections of one worker."""

    worker: int
    listed: Connections


class ByWorker(CommandFrame, tag="by_worker"):
    """Answer to `ListByWorker`: all processes behind the control socket, a lone one as well. During
    a reload a worker may be in it twice."""

    pid: int  # of the process that answers
    address: str
    workers: list[WorkerConnections]


class Answer(CommandFrame, tag="answer"):
    """The end of a command. `code` is a `Reason` of the process that answers."""

    ok: bool
    code: str
    message: str

    def heard(self) -> tuple[Reason, str]:
        """The reason and the message. A code that is unknown here is kept in the message."""
        return heard(self.code, self.message)


class Frozen(CommandFrame, tag="frozen"):
    """A frozen connection, as a sealed baton."""

    sealed: bytes


class Timelines(CommandFrame, tag="timelines"):
    """Answer to `ReadTimelines`: in the order of their beginnings."""

    timelines: list[Timeline]


class Joined(CommandFrame, tag="joined"):
    """The caller's place on the port, and the other processes there."""

    node: int
    worker: int
    workers: dict[int, str]  # worker number -> name


class SocketPassed(CommandFrame, tag="socket"):
    """The successor's place, the other processes on the port, and the predecessor's own name."""

    node: int
    worker: int
    workers: dict[int, str]
    name: str


class Listening(CommandFrame, tag="listening"):
    """The successor answers at its control socket."""


class Stopped(CommandFrame, tag="stopped"):
    """The successor may read the socket. These IDs are the predecessor's until they move."""

    connection_ids: list[bytes]


class PassBack(CommandFrame, tag="pass_back"):
    """Datagrams for these IDs of the port are for a process that was replaced, or is just being
    replaced, and lives on: `name` is its name, and at `control` it answers now."""

    name: str
    control: str
    pid: int
    connection_ids: list[bytes]


class Progress(CommandFrame, tag="progress"):
    """The progress of a takeover. Before an `Answer` of code `cut` the last one counts, as `left`,
    the connections and the requests of other connections that were cut."""

    moved: int
    left: int
    waiting: list[str]  # "connection: reason" of those that cannot move yet


class DrainProgress(CommandFrame, tag="drain_progress"):
    """The progress of a drain."""

    moved: int
    left: int


class Drained(CommandFrame, tag="drained"):
    """The result of a drain, or the present state of a process's connections."""

    moved: int
    proxied: int
    left: int  # still here: refused, or not moved in time
    running: int  # streams of connections that moved whose requests still run here
    refused: dict[str, int]  # by reason code, at the last try
    examples: list[str]  # "connection: why", a few
    seconds: float
    blackouts_us: list[int]  # of a sample of 10,000 at most


class Figures(CommandFrame, tag="figures"):
    """A process's counters and gauges; counters begin with the process. Release 0.2.0 reads these;
    what is newer is in `Tally` alone."""

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
    | ListByWorker
    | HandOff
    | HandOffProxied
    | Save
    | Resume
    | Join
    | PassListener
    | Introduce
    | TakeOver
    | TakeOverEarly
    | OpenLink
    | TakePeer
    | Freeze
    | Kept
    | Revive
    | Frozen
    | ReadTimelines
    | Timelines
    | Drain
    | StopDraining
    | ReadFigures
    | ReadTallies
    | Connections
    | ByWorker
    | Answer
    | Joined
    | SocketPassed
    | Listening
    | Stopped
    | PassBack
    | Progress
    | WorkerStatus
    | Begin
    | PassSocket
    | PassRoster
    | PassTallies
    | Survey
    | DeclareDead
    | EndProxied
    | Reload
    | ServiceStatus
    | ListOldProcesses
    | ReadOldProcess
    | DrainProgress
    | Drained
    | Figures
    | Tallies
    | Stop
    | Scale
    | ShareSockets
    | Upgrade
    | WorkerState
    | Left
    | SocketOf
    | Survivors
    | ReloadStep
    | OldProcessInfo
    | OldProcesses
    | Service
)

#: Commands that another host may send: none that names a file here or passes a descriptor.
REMOTE_COMMANDS: Final[frozenset[type[Frame]]] = frozenset(
    {
        ListConnections,
        ListByWorker,
        HandOff,
        HandOffProxied,
        Freeze,
        Kept,
        Revive,
        ReadTimelines,
        OpenLink,
        Drain,
        StopDraining,
        ReadFigures,
        ReadTallies,
        Reload,
        Scale,
        ServiceStatus,
        ListOldProcesses,
        EndProxied,
        Stop,
    }
)


def may_come_from_afar(frame: Frame) -> bool:
    """Whether another host may send this frame. A path of its own means nothing here, so
    destinations must have names that all hosts know."""
    if isinstance(frame, HandOff | HandOffProxied | Stop):
        names = [frame.to] if frame.to else []
    else:
        names = frame.to if isinstance(frame, Drain) else []
    return type(frame) in REMOTE_COMMANDS and all(ProcessName.parse(name) for name in names)


#: For commands and their answers.
CODEC: Final[Codec[Frame]] = Codec(Frame, "a command", MAX_COMMAND_BYTES)
encode = CODEC.encode
