"""Frames of `commands` that only a service with several workers knows: between its supervisor, its
workers and the commands of its operator."""

from __future__ import annotations

from quicbaton.service.peers.frame import CommandFrame

# --- commands to a worker, from its supervisor ------------------------------------------------


class WorkerStatus(CommandFrame, tag="worker"):
    """Ask how a worker is. Answered with `WorkerState`, or with `Answer` by a process that is no
    worker."""


class Begin(CommandFrame, tag="begin"):
    """Serve from now on: answered with `Progress` while connections come, then with `Answer`.

    `predecessor` is the control socket of the worker to take over from; empty: there is none.
    """

    workers: dict[int, str]  # who else is on the port: worker number -> name
    predecessor: str
    deadline_s: float
    linger_s: float  # as in `TakeOver`
    #: IDs of this place whose connections live in other workers, with the workers' numbers.
    elsewhere: dict[bytes, int]
    #: Whether no other process can own IDs of this place.
    may_reset: bool


class PassSocket(CommandFrame, tag="pass"):
    """Answered with `SocketOf` and the descriptor of the port's socket number `number`."""

    number: int


class ShareSockets(CommandFrame, tag="share"):
    """The port's sockets from number `first` on are the descriptors that come along, instead of
    those that the worker has: none, if there are fewer now. Answered with `Answer`."""

    first: int


class PassRoster(CommandFrame, tag="pass_roster"):
    """Answered with `SocketOf` and the descriptor of the worker's own roster."""


class PassTallies(CommandFrame, tag="pass_tallies"):
    """Answered with `SocketOf` and the descriptor of the memory with the service's figures, or with
    `Answer` by a worker that has none."""


class Survey(CommandFrame, tag="survey"):
    """The process `pid` is dead. Answered with `Survivors` once all that it wrote was handled."""

    pid: int


class DeclareDead(CommandFrame, tag="declare_dead"):
    """The end of a survey: the connections of the process `pid` are settled. Answered with
    `Answer`.

    All workers have answered. The connections in `names` live; if `sure`, no other connection of
    that process does. `elsewhere` and `may_reset` are as in `Begin`, for the process that is
    `worker` now, as it was.
    """

    pid: int
    worker: int
    sure: bool
    names: list[bytes]
    elsewhere: dict[bytes, int]
    may_reset: bool


# --- commands to a supervisor; `Stop` to any server -------------------------------------------


class Reload(CommandFrame, tag="reload"):
    """Replace all workers by new ones. Answered with `ReloadStep`s, then with `Answer`. A negative
    value means the service's own."""

    health_timeout_s: float
    #: Time for the connections that cannot move at once, mainly for running requests. The service's
    #: own: these go on in the background.
    grace_s: float


class Scale(CommandFrame, tag="scale"):
    """Have that many workers. Answered with `ReloadStep`s, then with `Answer`."""

    workers: int


class Upgrade(CommandFrame, tag="upgrade"):
    """Let another program be the supervisor, in the same process. Answered with `Answer`, after
    which the channel ends."""


class ServiceStatus(CommandFrame, tag="service"):
    """Answered with `Service`."""


class ListOldProcesses(CommandFrame, tag="list_old"):
    """Answered with `OldProcesses`."""


class ReadOldProcess(CommandFrame, tag="read_old"):
    """To a process: what it would live on for, were it replaced now. Answered with
    `OldProcessInfo`."""


class Stop(CommandFrame, tag="stop"):
    """Refuse new clients, hand connections to the process at `to` if that is not empty, let running
    requests end, close, exit. Answered with `Left`. Workers and lone servers take it, too. A
    negative `grace_s` means the server's own."""

    grace_s: float
    to: str


class EndProxied(CommandFrame, tag="end_proxied"):
    """To the owner of connections, from the process that sends for them and stops: GOAWAY, let
    running requests end, close. Answered with `Left`."""

    connections: list[bytes]  # by name
    grace_s: float


# --- answers ----------------------------------------------------------------------------------


class WorkerState(CommandFrame, tag="worker_state"):
    """Answer to `WorkerStatus`."""

    worker: int
    pid: int
    state: str  # ready, serving, arriving, departing, lingering, stopping
    version: str
    sockets: list[int]  # inode numbers of the port's sockets, in order
    connections: int
    handshakes: int
    accepted: int
    tossed: int  # datagrams that the kernel steered here and that were another worker's
    reset: int
    unlisted: int  # connections that found no room in the roster
    requests: int  # that its ASGI program was begun with


class Left(CommandFrame, tag="left"):
    """Answer to `Stop`: what became of the connections."""

    moved: int
    closed: int
    cut: int  # of those closed: they had requests that had not ended


class SocketOf(CommandFrame, tag="socket_of"):
    """The number of the worker whose socket it is, and the number of workers."""

    worker: int
    workers: int


class Survivors(CommandFrame, tag="survivors"):
    """The connections that live in this process although others issued their IDs."""

    ids: list[bytes]  # of connections that this process owns
    passed_on: list[bytes]  # of connections whose strays it forwards
    #: Of connections that it owns, has frozen, or has given to a process that lives.
    names: list[bytes]


class ReloadStep(CommandFrame, tag="reload_step"):
    """One step in the replacement of one worker."""

    worker: int
    workers: int
    phase: str  # starting, moving, done, failed
    pid: int
    moved: int
    left: int
    cut: int
    seconds: float
    message: str


class WorkerInfo(CommandFrame):
    """One worker as its supervisor sees it."""

    worker: int
    pid: int  # 0: none
    state: str  # starting, serving, backing off, ...
    control: str
    restarts: int
    connections: int
    handshakes: int
    accepted: int
    tossed: int
    reset: int
    requests: int
    message: str  # why it is down


class OldProcessInfo(CommandFrame, tag="old_process"):
    """What a process that was replaced lives on for."""

    worker: int
    pid: int
    #: Connections that it gave away and whose clients still use its connection IDs.
    unconfirmed: int
    #: Seconds until it forwards no more for the last of these, if they stay silent; 0: there are
    #: none.
    seconds_left: float
    proxied: int  # connections for whose owners it sends
    handshakes: int
    requests: int  # connections, here or elsewhere, of which requests run here
    sent_for: int  # connections of its own for which another process sends: they cannot move

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to live on for."""
        clients = self.unconfirmed + self.proxied + self.handshakes + self.sent_for
        return not clients and not self.requests


class OldProcesses(CommandFrame, tag="old_processes"):
    """Answer to `ListOldProcesses`: those that live."""

    processes: list[OldProcessInfo]


class Service(CommandFrame, tag="service_state"):
    """Answer to `ServiceStatus`."""

    pid: int
    address: str
    workers: list[WorkerInfo]
