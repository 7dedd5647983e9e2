"""Moves new connections to the worker that a placement policy names.

Every process reports its number of connections over its links (`Load`), twice a second, so each can
decide for itself. Workers of one node have links anyway; links with those of other nodes that a
policy names are kept up here (`KeptLinks`). So a process that is gone or beyond a partition soon is
no member any more, and no client waits for it. A policy's choice is tried once: a connection that
cannot move there stays.

A policy that decides by the first request is asked before the program gets it, and the request
moves with its connection: the chosen process answers it, from the first byte on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from aioquic.h3.connection import H3_ALPN

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.errors import ConfigurationError, QuicbatonError
from quicbaton.handoff import Outcome
from quicbaton.limits import MAX_LOADS
from quicbaton.reasons import Reason
from quicbaton.routing.placement import FarPlacement, Member, Newcomer, Placement, node_of
from quicbaton.service.moving.handoff import HandoffResult
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.names import ProcessName
from quicbaton.service.timing import LOAD_FRESH_S, NODE_REDIAL_S


class Loads:
    """The loads of other processes, from their latest reports."""

    def __init__(self) -> None:
        self._loads: dict[str, tuple[Member, float]] = {}

    def note(self, load: Member) -> None:
        """A process has reported its load. It goes by our name for it."""
        if load.name in self._loads or len(self._loads) < MAX_LOADS:
            self._loads[load.name] = (load, monotonic())

    def members(self, here: Member, elsewhere: Sequence[str]) -> list[Member]:
        """The members, by name: ourselves, and the processes that have room and reported lately.
        They are workers of our own node, and those of others that `elsewhere` names."""
        since = monotonic() - LOAD_FRESH_S
        node = node_of(here.name)
        known = [
            load
            for name, (load, at) in self._loads.items()
            if at >= since and (node_of(name) == node or {name, node_of(name)} & {*elsewhere})
        ]
        return sorted(
            (member for member in (here, *known) if member.room), key=lambda member: member.name
        )


class KeptLinks:
    """Links to the workers and nodes `names`, opened, and opened again when they are lost."""

    def __init__(self, names: Sequence[str], link_to: Callable[[str], Awaitable[object]]) -> None:
        self._names = names
        self._link_to = link_to

    async def keep(self) -> None:
        """Keep the links up until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(self._keep_one(name))

    async def _keep_one(self, name: str) -> None:
        while True:
            # A process that is not there is no member; nothing else depends on it.
            with contextlib.suppress(QuicbatonError, OSError):
                await self._link_to(name)
            await asyncio.sleep(NODE_REDIAL_S)


class Placing:
    """Asks the policy about every new connection of a process.

    `here` gives this process's name and load. `move` hands a connection to a member by name.
    `go_on` has this process answer the requests that a connection's client has sent so far. `spawn`
    runs a coroutine function in the background.
    """

    def __init__(
        self,
        policy: Placement,
        loads: Loads,
        *,
        here: Callable[[], Member],
        move: Callable[[bytes, str], Awaitable[HandoffResult]],
        go_on: Callable[[bytes], None],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._policy = policy
        self._elsewhere = names_elsewhere(policy)
        self._loads = loads
        self._here = here
        self._move = move
        self._go_on = go_on
        self._spawn = spawn
        #: Connections by outcome: placed, stayed, or the reason that kept them.
        self.outcomes: Counter[str] = Counter()

    def on_new(self, session: Session) -> None:
        """A handshake was confirmed here."""
        if not self._policy.wants_path:
            self._decide(session, None)
        elif session.connection.alpn in H3_ALPN:
            session.protocol.on_first_request = lambda path: self._decide(session, path)

    def _decide(self, session: Session, path: str | None) -> bool:
        """Whether the connection is to be placed elsewhere."""
        connection = session.connection
        here = self._here()
        newcomer = Newcomer(
            connection_id=connection.name,
            client=str(connection.peer_address[0]).removeprefix("::ffff:"),
            server_name=connection.server_name,
            alpn=connection.alpn,
            path=path,
        )
        members = self._loads.members(here, self._elsewhere)
        try:
            name = self._policy.choose(newcomer, members, here.name)
        except Exception as error:
            # The boundary to a policy of the user's own: its mistake must not cost the client.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the placement policy failed", "exception": error}
            )
            self.outcomes["policy_failed"] += 1
            return False
        if name is None or name == here.name:
            self.outcomes["stayed"] += 1
            return False
        # Not within the batch of datagrams that brought it.
        self._spawn(lambda: self._place(connection.name, name))
        return True

    async def _place(self, connection_id: bytes, name: str) -> None:
        try:
            report = await self._move(connection_id, name)
        except QuicbatonError as error:
            self.outcomes[error.code] += 1
        else:
            given = report.outcome is Outcome.GIVEN
            self.outcomes["placed" if given else report.code] += 1
        finally:
            self._go_on(connection_id)


def names_elsewhere(policy: Placement | None) -> tuple[str, ...]:
    """The workers of other nodes, and the nodes, that a policy may name."""
    return tuple(policy.elsewhere) if isinstance(policy, FarPlacement) else ()


def check_names(names: Sequence[str], cluster: Cluster | None) -> None:
    """ConfigurationError unless all of them are in the cluster."""
    for name in names:
        process = ProcessName.parse(name)
        if process is None or (cluster is None and process.worker is None):
            raise ConfigurationError(
                "a placement names a worker by its number, or in a cluster as NODE or "
                f"NODE/WORKER; got {name!r}",
                code=Reason.PLACEMENT,
            )
        if cluster is None:
            raise ConfigurationError(
                f"the placement names {name}, a process of a cluster, and this one is in none: "
                "give --cluster",
                code=Reason.NO_CLUSTER,
            )
        cluster.find(process.node)
