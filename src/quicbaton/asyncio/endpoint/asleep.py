"""Connections that sleep: an idle one shrinks to its encoded state, and wakes as it was.

Theory of operation
-------------------
A connection that has been silent for `sleep_after_s` and has nothing to do (`transport.resting`) is
encoded; its session, protocol and HTTP/3 objects go. A `Sleeper` remains: its name, its bytes, its
next deadline. It takes the session's place in the routing table, so the next datagram finds it. It
is in one heap of deadlines with all others, behind one timer. Either wakes it: everything is
rebuilt, which takes about a tenth of a millisecond, and goes on with the datagram or the deadline
as if it had been awake. The owner is the same: no term changes, no number is skipped.

Candidates for sleep are found without looking at all connections all the time. Each session is
looked at when it may have been silent for long enough, and then when it will have been. Work that
can be much is done in slices, so that no client waits for a crowd that falls asleep or wakes at
once.

A program agrees to this by `export_state`, as it does to handoffs: after a sleep its protocol
object is another one. A reference to the old one elsewhere in the program (in a list of clients,
say) is to an object that is spent. Hence connections sleep only where a server asks for it.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any, Final, Protocol

import msgspec
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.logger import QuicLoggerTrace

from quicbaton.asyncio.endpoint.observer import Observers
from quicbaton.asyncio.endpoint.program import export_program, import_program
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.baton.sleep import Nap, decode_nap, put_to_sleep, wake
from quicbaton.errors import ConfigurationError, InternalError, QuicbatonError, RefusedError
from quicbaton.limits import MAX_SLEEP_DOUBLINGS, SLEEP_SLICE_S
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import IdFactory
from quicbaton.routing.table import RoutingTable
from quicbaton.transport.budget import MemoryBudget
from quicbaton.transport.connection import Connection

#: H3_INTERNAL_ERROR (RFC 9114 §8.1), for a connection with which its program cannot go on.
_INTERNAL_ERROR: Final = 0x102
#: Dead entries that the heap of deadlines may hold before it is rebuilt.
_HEAP_SLACK: Final = 1024
_NEVER: Final = float("inf")


class Bed(Protocol):
    """The part of the endpoint that its sleeping connections need."""

    observers: Observers
    sessions: dict[bytes, Session]
    ids: IdFactory
    table: RoutingTable[Any]
    budget: MemoryBudget

    @property
    def configuration(self) -> QuicConfiguration: ...
    def adopt(self, connection: Connection, protocol: QuicConnectionProtocol) -> Session: ...
    def create_protocol(self, connection: Connection) -> QuicConnectionProtocol: ...
    def release(self, session: Session, owner: Sleeper) -> None: ...
    def start_trace(self, original_id: bytes) -> QuicLoggerTrace | None: ...
    def end_trace(self, connection: Connection) -> None: ...


class Sleeper(msgspec.Struct, gc=False, eq=False, weakref=False):
    """One sleeping connection. A hundred thousand cost the garbage collector nothing: it does not
    track them (`Sleepers.clear` ends their reference to the object that keeps them)."""

    home: Sleepers
    name: bytes
    #: Holds keys. Empty from the moment it is woken: no state is ever used twice.
    payload: bytes
    wake_at_s: float
    since_s: float
    doublings: int

    def receive(self, batch: list[Datagram]) -> None:
        """Wake with these datagrams."""
        session = self.home.wake(self.name)
        if session is not None:
            session.receive(batch)

    def __lt__(self, other: Sleeper) -> bool:
        return self.wake_at_s < other.wake_at_s

    def __repr__(self) -> str:
        return f"<Sleeper {self.name.hex()} {len(self.payload)} bytes>"


class Sleepers:
    """An endpoint's sleeping connections by name; `sleep_after_s` zero: none ever sleeps."""

    def __init__(self, endpoint: Bed, sleep_after_s: float) -> None:
        if sleep_after_s < 0:
            raise ConfigurationError(
                f"seconds before a connection sleeps are not negative, got {sleep_after_s}; "
                "0: it never does"
            )
        self._endpoint = endpoint
        self._sleep_after_s = sleep_after_s
        self._loop = asyncio.get_running_loop()
        self._sleepers: dict[bytes, Sleeper] = {}
        #: By deadline. Those that have woken stay until it is their turn, or there are too many.
        self._deadlines: list[Sleeper] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = _NEVER
        #: When to look at which session, and the names in it: each is in it once at most.
        self._looks: list[tuple[float, bytes]] = []
        self._watched: set[bytes] = set()
        self._next_slice: asyncio.TimerHandle | None = None
        self.slept = 0
        self.woken = 0
        #: Reasons of connections that were silent long enough and did not sleep.
        self.refused: Counter[str] = Counter()

    # --- a mapping: name -> sleeper -------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._sleepers)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._sleepers)

    def __contains__(self, name: object) -> bool:
        return name in self._sleepers

    def __getitem__(self, name: bytes) -> Sleeper:
        return self._sleepers[name]

    def peek(self, name: bytes) -> Nap | None:
        """A sleeper's state, to look at only: it sleeps on with its own."""
        sleeper = self._sleepers.get(name)
        return None if sleeper is None else decode_nap(sleeper.payload)

    # --- commands -------------------------------------------------------------------------------

    def watch(self, session: Session) -> None:
        """The session is new here: it may sleep when it has been silent for long enough."""
        name = session.connection.name
        if self._sleep_after_s and name not in self._watched:
            self._watched.add(name)
            heapq.heappush(self._looks, (monotonic() + self._sleep_after_s, name))

    def look(self) -> None:
        """Put silent connections to sleep, for a slice of time. The rest follows by itself."""
        if self._next_slice is None:
            self._look_for_a_slice()

    def put_to_sleep(self, session: Session) -> Sleeper:
        """Shrink a session to its bytes, whose `name` its next datagram or deadline wakes.

        Raises RefusedError, the session unharmed. The code is the reason why it stays awake.
        """
        connection = session.connection
        now = monotonic()
        why = connection.why_awake(now)
        if why or self._endpoint.observers.keeps_awake(session):
            raise RefusedError("the connection is needed awake", code=why or Reason.NEEDED)
        application, http3 = export_program(session.protocol)
        asleep = put_to_sleep(connection, http3, application, now)
        name = connection.name
        sleeper = Sleeper(
            self,
            # The routing table's own object, where it has one: 48 bytes less.
            next((cid for cid in session.cids if cid == name), name),
            asleep.payload,
            _NEVER if asleep.wake_at_s is None else asleep.wake_at_s,
            now,
            session.rest_doublings,
        )
        self._endpoint.release(session, sleeper)
        self._sleepers[sleeper.name] = sleeper
        self.slept += 1
        if sleeper.wake_at_s != _NEVER:
            self._enter(sleeper)
        self._endpoint.end_trace(connection)
        session.protocol.connection_left()
        return sleeper

    def wake(self, name: bytes) -> Session | None:
        """The session of a connection that slept, or that has been woken since; None when there is
        none. Let it `receive` or `catch_up` next."""
        sleeper = self._sleepers.pop(name, None)
        if sleeper is None:
            return self._endpoint.sessions.get(name)
        payload, sleeper.payload = sleeper.payload, b""
        if not payload:
            raise InternalError(f"{sleeper!r} was woken before: its state must not be used again")
        endpoint = self._endpoint
        nap = decode_nap(payload)
        connection = wake(
            nap,
            issuer=endpoint.ids,
            entropy=os.urandom,
            budget=endpoint.budget,
            configuration=endpoint.configuration,
            trace=endpoint.start_trace(nap.connection.original_id),
        )
        self.woken += 1
        failure: Exception | None = None
        protocol: QuicConnectionProtocol | None = None
        try:
            protocol = endpoint.create_protocol(connection)
            import_program(protocol, connection, nap.http3, nap.application, [])
        except Exception as error:
            # The program cannot go on with its exported state: this object tells the client.
            if protocol is not None:
                protocol.connection_left()
            protocol = QuicConnectionProtocol(connection)
            failure = error
        for cid in connection.connection_ids():
            endpoint.table.remove(cid)
        session = endpoint.adopt(connection, protocol)
        self._let_rest(session, sleeper)
        if failure is not None:
            self._report(f"{sleeper!r} could not be woken", failure)
            session.protocol.close(_INTERNAL_ERROR, "the connection could not be woken")
        return session

    async def wake_all(self) -> AsyncIterator[Session]:
        """Wake all, one after the other, so that each may be closed before the next: awake all
        together they would take thirty times the memory. Datagrams are read meanwhile."""
        end = monotonic() + SLEEP_SLICE_S
        for name in list(self._sleepers):
            session = self.wake(name) if name in self._sleepers else None
            if session is not None:
                session.catch_up()
                if not session.is_over:
                    yield session
            if monotonic() > end:
                await asyncio.sleep(0)
                end = monotonic() + SLEEP_SLICE_S

    def clear(self) -> None:
        """Stop looking and waking; the endpoint has woken and closed all."""
        for timer in (self._alarm, self._next_slice):
            if timer is not None:
                timer.cancel()
        self._sleepers.clear()
        self._deadlines.clear()
        self._looks.clear()
        self._watched.clear()

    # --- helpers, in reading order --------------------------------------------------------------

    def _look_for_a_slice(self) -> None:
        self._next_slice = None
        now = monotonic()
        end = now + SLEEP_SLICE_S
        while self._looks and self._looks[0][0] <= now:
            if now > end:
                self._next_slice = self._loop.call_later(SLEEP_SLICE_S, self._look_for_a_slice)
                return
            _, name = heapq.heappop(self._looks)
            session = self._endpoint.sessions.get(name)
            try:
                again_s = None if session is None else self._look_at(session, now)
            except Exception as error:
                # The boundary between connections: the others are looked at, too.
                self._report(f"{session!r} failed to fall asleep", error)
                again_s = None
            if again_s is None:
                self._watched.discard(name)
            else:
                heapq.heappush(self._looks, (now + again_s, name))
            now = monotonic()

    def _look_at(self, session: Session, now: float) -> float | None:
        """Put the session to sleep, if it is time; else return in how many seconds to look
        again."""
        rest_s = self._sleep_after_s * (1 << session.rest_doublings)
        left_s = rest_s - session.connection.quiet_s(now)
        if left_s > 0:
            return left_s
        try:
            self.put_to_sleep(session)
        except QuicbatonError as error:
            self.refused[error.code] += 1
            if error.code is Reason.EXPORT_FAILED:
                self._report(f"{session!r} cannot sleep", error)
        else:
            return None
        # The reason to stay awake may last: its request runs, its program does not export.
        session.rest_doublings = min(session.rest_doublings + 1, MAX_SLEEP_DOUBLINGS)
        return self._sleep_after_s * (1 << session.rest_doublings)

    def _let_rest(self, session: Session, sleeper: Sleeper) -> None:
        """Set how long a woken connection must be silent before it sleeps again: longer and longer
        while its sleep is not worth its price."""
        was_short = monotonic() - sleeper.since_s < 2 * self._sleep_after_s
        if was_short:
            session.rest_doublings = min(sleeper.doublings + 1, MAX_SLEEP_DOUBLINGS)

    def _enter(self, sleeper: Sleeper) -> None:
        heapq.heappush(self._deadlines, sleeper)
        if len(self._deadlines) > 2 * len(self._sleepers) + _HEAP_SLACK:
            self._deadlines = [one for one in self._deadlines if one.payload]
            heapq.heapify(self._deadlines)
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Arm the one timer for the first deadline. It is armed anew only for an earlier one."""
        if not self._deadlines or self._deadlines[0].wake_at_s >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = self._deadlines[0].wake_at_s
        delay = max(0.0, self._alarm_at - monotonic())
        self._alarm = self._loop.call_later(delay, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        self._alarm_at = _NEVER
        now = monotonic()
        end = now + SLEEP_SLICE_S
        while self._deadlines and self._deadlines[0].wake_at_s <= now:
            if now > end:
                self._alarm_at = now
                self._alarm = self._loop.call_later(SLEEP_SLICE_S, self._on_alarm)
                return
            sleeper = heapq.heappop(self._deadlines)
            if sleeper.payload:
                self._wake_in_time(sleeper)
            now = monotonic()
        self._set_alarm()

    def _wake_in_time(self, sleeper: Sleeper) -> None:
        try:
            session = self.wake(sleeper.name)
            if session is not None:
                session.catch_up()
        except Exception as error:
            # The boundary between connections: the others have deadlines, too.
            self._report(f"{sleeper!r} failed at its deadline", error)

    def _report(self, what: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": what, "exception": error})
