"""Moves new connections to the worker that a placement policy names.

Every process tells its links how many connections it has (`Load`), twice a second, so each can
decide for itself. What a policy chose is tried once: a connection that cannot move there stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.moving.machines import Report
from quicbaton.errors import QuicbatonError
from quicbaton.handoff import Outcome
from quicbaton.handoff.messages import Load
from quicbaton.limits import MAX_LOADS
from quicbaton.routing.placement import Member, Newcomer, Placement

#: How often a process says how busy it is, and how old that may be to count.
LOAD_INTERVAL_S: Final = 0.5
_FRESH_S: Final = 4 * LOAD_INTERVAL_S


class Loads:
    """How busy other processes are, as they said last."""

    def __init__(self) -> None:
        self._loads: dict[str, tuple[Load, float]] = {}

    def note(self, name: str, load: Load) -> None:
        """The process at the other end of a link has spoken; `name` is what we call it."""
        if name in self._loads or len(self._loads) < MAX_LOADS:
            self._loads[name] = (load, monotonic())

    def members(self, here: Member) -> list[Member]:
        """Those that have room and were heard of lately, and us, by name."""
        since = monotonic() - _FRESH_S
        known = [
            Member(name, load.connections, load.room)
            for name, (load, at) in self._loads.items()
            if at >= since
        ]
        return sorted(
            (member for member in (here, *known) if member.room), key=lambda member: member.name
        )


class Placing:
    """Asks the policy about every new connection of a process.

    `here` says what this process is called and how busy it is; `move` hands a connection to a
    member by name; `spawn` runs a coroutine function in the background.
    """

    def __init__(
        self,
        policy: Placement,
        loads: Loads,
        *,
        here: Callable[[], Member],
        move: Callable[[bytes, str], Awaitable[Report]],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._policy = policy
        self._loads = loads
        self._here = here
        self._move = move
        self._spawn = spawn
        #: Connections by what became of them: placed, stayed, or the reason that kept them.
        self.outcomes: Counter[str] = Counter()

    def on_new(self, session: Session) -> None:
        """A handshake was confirmed here."""
        if self._policy.wants_path:
            session.protocol.on_first_request = lambda path: self._decide(session, path)
        else:
            self._decide(session, None)

    def _decide(self, session: Session, path: str | None) -> None:
        connection = session.connection
        here = self._here()
        newcomer = Newcomer(
            connection_id=connection.name,
            client=str(connection.peer_address[0]).removeprefix("::ffff:"),
            server_name=connection.server_name,
            alpn=connection.alpn,
            path=path,
        )
        name = self._policy.choose(newcomer, self._loads.members(here), here.name)
        if name is None or name == here.name:
            self.outcomes["stayed"] += 1
            return
        # Not from within the batch of datagrams that brought it.
        self._spawn(lambda: self._place(connection.name, name))

    async def _place(self, connection_id: bytes, name: str) -> None:
        try:
            report = await self._move(connection_id, name)
        except QuicbatonError as error:
            self.outcomes[error.code] += 1
            return
        given = report.outcome is Outcome.GIVEN
        self.outcomes["placed" if given else report.code] += 1
