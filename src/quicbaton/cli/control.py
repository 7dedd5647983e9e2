"""The server that a command is for, and calls to it from a program without an event loop.

A SERVER is the path of a control socket, PORT or HOST:PORT of a server of the same user on this
host, or, with `--cluster`, NODE or NODE/WORKER.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from quicbaton.cli import user_state
from quicbaton.cli.control_names import Where, is_service, service_of
from quicbaton.cli.options.cluster import ClusterOptions
from quicbaton.errors import ConfigurationError, PeerError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.channel import connect_channel
from quicbaton.service.peers.cluster import Cluster, node_keys
from quicbaton.service.peers.directory import connect_node
from quicbaton.service.peers.names import ProcessName
from quicbaton.service.peers.tally import Tally
from quicbaton.service.timing import ANSWER_S

_Frame = TypeVar("_Frame", bound=c.Frame)
_T = TypeVar("_T")


class Server(NamedTuple):
    """A server to which commands can be sent: at a path, or by name in a cluster."""

    path: Path | None
    name: str
    cluster: Cluster | None

    def __str__(self) -> str:
        return self.name

    @property
    def is_remote(self) -> bool:
        return self.path is None

    async def begin(self, timeout_s: float = ANSWER_S) -> Conversation:
        """A conversation with the server. PeerError when it does not answer."""
        if self.path is not None:
            return await Conversation.begin(self.path, timeout_s)
        assert self.cluster is not None
        return Conversation(await connect_node(self.cluster, self.name), timeout_s)

    async def say(
        self, command: c.Frame, answer: type[_Frame], timeout_s: float = ANSWER_S
    ) -> _Frame:
        """Send one command and return its answer, as `Conversation.ask` does."""
        with await self.begin(timeout_s) as conversation:
            return await conversation.ask(command, answer)

    def ask(self, command: c.Frame, answer: type[_Frame]) -> _Frame:
        """As `say`, for a program without an event loop."""
        return asyncio.run(self.say(command, answer))

    def talk(self, talk: Callable[[Conversation], Awaitable[_T]]) -> _T:
        """Run several commands in one conversation."""

        async def run() -> _T:
            with await self.begin() as conversation:
                return await talk(conversation)

        return asyncio.run(run())


def find_cluster(options: ClusterOptions, *, serves: bool = False) -> Cluster | None:
    """The cluster that the options name, as the node that they name. A process that `serves` must
    know for certain which node it is."""
    folder = options.cluster
    if folder is None:
        return None
    name = options.node_name
    if name is None:
        held = node_keys(folder)
        if not held:
            raise ConfigurationError(
                f"{folder} has no node's private key: copy this host's there",
                code=Reason.CERTIFICATES,
            )
        if serves and len(held) > 1:
            raise ConfigurationError(
                f"{folder} has the keys of {', '.join(held)}: say which you are with --node-name",
                code=Reason.CERTIFICATES,
            )
        # For commands any node will do: all nodes may give the same commands.
        name = held[0]
    return Cluster(folder, name)


def find_server(text: str, options: ClusterOptions) -> Server:
    """The server that SERVER means, where it must be one process."""
    found = find_servers(text, options)
    if len(found) != 1:
        paths = ", ".join(str(server.path) for server in found)
        raise ConfigurationError(
            f"{len(found)} processes serve at {text}: name one by HOST:PORT, if they have several "
            f"addresses, or by its control socket, of {paths}",
            code=Reason.UNKNOWN_SERVER,
        )
    return found[0]


def find_servers(text: str, options: ClusterOptions) -> list[Server]:
    """The servers that SERVER means: the processes that share a port, or one."""
    where = Where.parse(text)
    if where is not None and not Path(text).exists():
        found = local_servers(user_state.control_sockets(where.port))
        if where.host:
            found = _at_address(found, where)
        services = [server for server in found if _is_service(server)]
        # A further service may serve another address of the port, or single servers may.
        rest = [server for server in found if not _is_worker_of(server, services)]
        if not rest:
            raise ConfigurationError(
                f"no server of yours is at {text}{user_state.closed_folder_hint()}",
                code=Reason.UNKNOWN_SERVER,
            )
        return rest
    process = ProcessName.parse(text)
    cluster = find_cluster(options)
    if process is not None and cluster is not None and process.node in cluster.nodes:
        return [Server(None, text, cluster)]
    path = Path(text)
    if process is not None and not path.exists():
        hint = "give --cluster" if cluster is None else f"{cluster.folder} has no node of that name"
        raise ConfigurationError(
            f"{text!r} is no socket, and for a node of a cluster: {hint}",
            code=Reason.UNKNOWN_SERVER,
        )
    return [Server(path.absolute(), text, None)]


def at_another_process(text: str, options: ClusterOptions, ask: Callable[[Server], _T]) -> _T:
    """Ask the processes that SERVER means and that can have connections themselves, one by one,
    until one is another than the process that has the connection now."""
    processes = [
        process for server in find_servers(text, options) for process in _processes_of(server)
    ]
    if not processes:
        raise ConfigurationError(
            f"the service {text} has no workers now", code=Reason.UNKNOWN_SERVER
        )
    return ask_in_turn(processes, ask, Reason.SAME_PROCESS)


def ask_in_turn(servers: Sequence[Server], ask: Callable[[Server], _T], *elsewhere: Reason) -> _T:
    """The answer of the first server that does not refuse for one of the reasons `elsewhere`; what
    the last one says counts in any case."""
    for server in servers[:-1]:
        try:
            return ask(server)
        except CommandFailedError as error:
            if error.code not in elsewhere:
                raise
    return ask(servers[-1])


def local_servers(paths: list[Path]) -> list[Server]:
    """The servers behind those control sockets that still answer."""
    return [Server(path, str(path), None) for path in paths if _answers(path)]


def your_servers() -> list[Server]:
    """All of the user's servers on this host: services, and processes that belong to no service."""
    found = local_servers(user_state.all_control_sockets())
    services = [server for server in found if _is_service(server)]
    return [server for server in found if not _is_worker_of(server, services)]


def old_processes_of(server: Server) -> list[c.OldProcessInfo]:
    """The processes of a service that were replaced and live on; none where a server does not know
    the question."""
    try:
        return server.ask(c.ListOldProcesses(), c.OldProcesses).processes
    except (CommandFailedError, PeerError):
        return []


def tallies_of(server: Server) -> list[Tally]:
    """The figures of a service's workers; none where a server does not know the question."""
    try:
        return server.ask(c.ReadTallies(), c.Tallies).tallies
    except (CommandFailedError, PeerError):
        return []


def name_for(server: Server, destination: Server) -> str:
    """The name of `destination` for `server`."""
    if destination.is_remote:
        return destination.name
    if server.is_remote:
        raise ConfigurationError(
            f"{server} is on another host and finds no {destination}: name it NODE/WORKER",
            code=Reason.LOCAL_NAME,
        )
    return str(destination.path)


# --- helpers ----------------------------------------------------------------------------------


def _processes_of(server: Server) -> list[Server]:
    """The workers of a service that serve; else the server itself."""
    if server.is_remote:
        return [server]
    try:
        service = server.ask(c.ServiceStatus(), c.Service)
    except (CommandFailedError, PeerError):
        # It is no service, or will not answer the real command either.
        return [server]
    return [
        Server(Path(worker.control), server.name, None)
        for worker in service.workers
        if worker.state == "serving"
    ]


def _is_service(server: Server) -> bool:
    """Whether it is a supervisor: its socket is named after the port, those of workers by pid,
    too."""
    return server.path is not None and is_service(server.path)


def _is_worker_of(server: Server, services: Sequence[Server]) -> bool:
    stems = {service.path.stem for service in services if service.path is not None}
    if server.path is None or is_service(server.path):
        return False
    return service_of(server.path) in stems


def _at_address(found: list[Server], where: Where) -> list[Server]:
    """Those that are bound to the address; without any, those that are bound to all addresses."""
    addresses = [_address_of(server) for server in found]
    at = [server for server, one in zip(found, addresses, strict=True) if where.is_at(one)]
    return at or [
        server for server, one in zip(found, addresses, strict=True) if where.is_among(one)
    ]


def _address_of(server: Server) -> str:
    try:
        return server.ask(c.ListConnections(), c.Connections).address
    except QuicbatonError:
        return ""


def _answers(path: Path) -> bool:
    async def knock() -> bool:
        try:
            channel = await connect_channel(path)
        except PeerError:
            return False
        channel.close()
        return True

    return asyncio.run(knock())
