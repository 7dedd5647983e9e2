"""One live connection of this process: its timer, its routes, its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, Protocol

from quicbaton.asyncio.endpoint.lateness import Lateness
from quicbaton.asyncio.endpoint.udp import Datagram, UdpSocket
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.http3.connection import H3Connection
from quicbaton.limits import BULK_DATAGRAMS, MIN_DATAGRAM_BYTES, MIN_GATHER_RTT_S
from quicbaton.transport import frames as f
from quicbaton.transport.connection import Connection
from quicbaton.transport.train import Train

#: The packets' size may be refused, then those of the probes by which the right one is found.
_MAX_REFUSALS: Final = 12


class Routes(Protocol):
    """The table in which a session enters its connection IDs."""

    def add(self, cid: bytes, owner: Session) -> None: ...
    def retire(self, cid: bytes, now: float) -> None: ...


class Outlet(Protocol):
    """The destination of a session's trains: the endpoint's socket, or another process that sends
    them."""

    @property
    def is_full(self) -> bool: ...
    @property
    def through(self) -> str | None:
        """The process that sends them, empty while it is out of reach; None where none does."""

    def send(self, train: Train) -> bool: ...


class Host(Protocol):
    """The part of its endpoint that a session needs."""

    udp: UdpSocket
    lateness: Lateness
    #: Seconds of silence after which a connection dozes.
    doze_after_s: float

    @property
    def table(self) -> Routes: ...
    def forget(self, session: Session) -> None: ...
    def on_retired(self, session: Session) -> None: ...
    def wait_for_room(self, session: Session) -> None: ...
    def hear_all(self, session: Session) -> bool: ...


class Session:
    """Drives a `Connection` from an endpoint's socket and clock, for its protocol.

    One timer per connection, armed lazily: one that fires too early is armed again, so the deadline
    that moves with every packet costs nothing. It also looks whether the connection may doze.
    """

    def __init__(
        self, endpoint: Host, connection: Connection, protocol: QuicConnectionProtocol
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self._endpoint = endpoint
        self._outlet: Outlet = endpoint.udp
        self._wait_for_room: Callable[[Session], None] = endpoint.wait_for_room
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._due_at = inf  # the connection's next deadline, as it was after the latest turn
        self._soon: asyncio.Handle | None = None
        self._over = False
        self._full_sized = 0  # datagrams received one after the other
        #: Called once, when no request is open any more.
        self._on_idle: Callable[[Session], None] | None = None
        #: How often the time after which it may sleep is doubled.
        self.rest_doublings = 0
        #: The IDs that are routed here. A set would take three times as much memory.
        self.cids: tuple[bytes, ...] = ()
        self.since_s = monotonic()
        for cid in connection.connection_ids():
            self.add_route(cid)
        protocol.connection_made(self)

    def __repr__(self) -> str:
        return f"<Session {self.connection!r}>"

    @property
    def is_over(self) -> bool:
        """Whether the connection is no longer driven here."""
        return self._over

    @property
    def sent_for_by(self) -> str | None:
        """The process that sends for the connection, empty while it is out of reach; None for one
        that needs none."""
        return self._outlet.through

    @property
    def is_bulk(self) -> bool:
        """Whether it sends or receives bulk data."""
        return self._full_sized >= BULK_DATAGRAMS or self.connection.sends_in_bulk

    @property
    def patience_s(self) -> float:
        """How long its datagrams may stay in the socket, 0 for not at all: a tenth of a round trip
        if it sends or receives bulk data."""
        rtt_s = self.connection.smoothed_rtt_s
        if self._over or rtt_s < MIN_GATHER_RTT_S or not self.is_bulk:
            return 0.0
        return rtt_s / 10

    def send_through(self, outlet: Outlet, wait_for_room: Callable[[Session], None]) -> None:
        """Send through `outlet` from now on. `wait_for_room(session)` calls `transmit_soon` once
        the outlet, which was full, has room again."""
        self._outlet = outlet
        self._wait_for_room = wait_for_room

    # --- from the endpoint ----------------------------------------------------------------------

    def receive(self, batch: list[Datagram]) -> None:
        """Process datagrams of this connection, in order."""
        if self._over:
            return  # it has moved on; these are for an ID that was retired before
        is_full_sized = len(batch[-1].data) >= MIN_DATAGRAM_BYTES
        self._full_sized = self._full_sized + len(batch) if is_full_sized else 0
        self._receive(batch, self.protocol.process_events)
        self.process()

    def resume(self, strays: list[Datagram]) -> None:
        """Process datagrams that arrived during a handoff. They may open the window, and the client
        has been waiting: then one train goes before the application gets its turn."""
        if strays:
            self._receive(strays, None)
            send_first(self.connection, self._outlet)

    def _receive(self, batch: list[Datagram], deliver: Callable[[], None] | None) -> None:
        """Process runs of datagrams of one address each. The program gets the events of one run
        before the next: a connection is judged by the events that its program leaves in the
        queue."""
        now = monotonic()
        connection = self.connection
        first = batch[0]
        if len(batch) == 1:
            connection.receive_datagrams(
                (first.data,), first.remote, now, local=first.local, ecn=first.ecn
            )
        else:
            start = 0
            for index in range(1, len(batch) + 1):
                if index == len(batch) or batch[index][1:] != first[1:]:
                    connection.receive_datagrams(
                        [datagram.data for datagram in batch[start:index]],
                        first.remote,
                        now,
                        local=first.local,
                        ecn=first.ecn,
                    )
                    if index < len(batch):
                        if deliver is not None:
                            deliver()
                        start = index
                        first = batch[index]

    def process(self) -> None:
        """Deliver events, then send. If the protocol asks for it, its tasks run first."""
        protocol = self.protocol
        protocol.process_events()
        if protocol.answers_soon:
            protocol.answers_soon = False
            self.transmit_soon()
        else:
            self.transmit()

    def transmit(self) -> None:
        """Send what is due now and arm the timer."""
        if self._over:
            return
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        connection = self.connection
        outlet = self._outlet
        if outlet.is_full:
            self._wait_for_room(self)
        else:
            send_all(connection, outlet, late_s=self._endpoint.lateness.seconds)
        if self._on_idle is not None:
            self.when_idle(self._on_idle)
        self._arm()

    def when_idle(self, then: Callable[[Session], None]) -> None:
        """Call `then(session)`, now or later, once no request of the connection is open, or it is
        being closed. It is not called for a connection that leaves before."""
        if self.connection.is_closing or not self.connection.has_open_requests:
            self._on_idle = None
            then(self)
        else:
            self._on_idle = then

    def transmit_soon(self) -> None:
        if self._soon is None and not self._over:
            self._soon = self._loop.call_soon(self._transmit_now)

    def close_for_memory(self, reason: str) -> None:
        """It holds more of the process's memory than any other, and there is none left."""
        self.connection.close(f.INTERNAL_ERROR, 0, reason)
        self.process()

    def restore_credit(self) -> None:
        """There is memory again for credit that was withheld from its peer."""
        if not self._over:
            self.connection.restore_credit()
            self.transmit_soon()

    def catch_up(self) -> None:
        """Handle passed deadlines, and arm the timer: for a connection that has just been woken."""
        self._due_at = self._next_deadline()
        self._transmit_now()

    def add_route(self, cid: bytes) -> None:
        """An ID was issued: packets with it are ours."""
        self._endpoint.table.add(cid, self)
        if cid not in self.cids:
            self.cids += (cid,)

    def remove_route(self, cid: bytes) -> None:
        """The peer retired an ID: only late datagrams still come for it."""
        self.cids = tuple(known for known in self.cids if known != cid)
        self._endpoint.table.retire(cid, monotonic())

    def ids_retired(self) -> None:
        """The routes of some IDs were removed."""
        self._endpoint.on_retired(self)

    def detach(self) -> None:
        """Stop driving the connection: it was frozen, or it is over. Routes stay."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    # --- helpers, in reading order --------------------------------------------------------------

    def _transmit_now(self) -> None:
        self._soon = None
        # A deadline that had passed when the timer was to be armed is handled here: a PTO, for
        # instance, while the application kept the event loop busy.
        if not self._over and not self._handle_deadlines():
            self.transmit()

    def _handle_deadlines(self) -> bool:
        """Do what is due by now, and arm the timer; False when nothing is."""
        connection = self.connection
        now = monotonic()
        if self._due_at > now:
            return False
        if connection.is_loss_due(now):
            # A peer is silent when nothing has come from it, not when nothing was read.
            if not self._endpoint.hear_all(self) and not self._over:
                connection.hold_loss(now)
            if self._over:
                return True
            now = monotonic()
            if self._next_deadline() > now:
                self.transmit()  # what the program has written since
                return True
        connection.handle_timer(now)
        self.process()
        return True

    def _arm(self) -> None:
        connection = self.connection
        if connection.closed:
            self.protocol.process_events()
            self.detach()
            self._endpoint.forget(self)
            return
        self._due_at = self._next_deadline()
        self._arm_at(self._due_at, monotonic())

    def _next_deadline(self) -> float:
        at = self.connection.get_timer()
        return inf if at is None else at

    def _arm_at(self, at: float, now: float) -> None:
        doze_after_s = self._endpoint.doze_after_s
        if at > now + doze_after_s and not self.connection.dozes:
            at = now + doze_after_s  # no deadline is near: look then whether it may doze
        if at <= now:
            # More to send, or late. As a timer, so that the event loop reads ACKs first: they may
            # be the late ones.
            if self._soon is None and not self._outlet.is_full:
                self._soon = self._loop.call_later(0, self._transmit_now)
            return
        if at != inf and (self._timer is None or at < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(at - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = monotonic()
        self._endpoint.lateness.note(now - self._timer_at)
        if self._handle_deadlines():
            return
        try:
            if self.connection.quiet_s(now) >= self._endpoint.doze_after_s:
                # A program may have set a deadline, and not called `transmit`.
                self._due_at = self._next_deadline()
                if self._due_at > now:
                    self._doze(now)
        finally:
            self._arm_at(self._due_at, now)

    def _doze(self, now: float) -> None:
        """Let go of what can be made again, if the connection has nothing to do."""
        http = self.protocol._http
        if self.connection.doze(now) and isinstance(http, H3Connection):  # not aioquic's
            http.rest()


def send_first(connection: Connection, outlet: Outlet) -> bool:
    """Send one short train of a connection that has been silent for a handoff. Returns False when
    nothing was sent."""
    if not connection.has_stream_data_due or outlet.is_full:
        return False
    return send_all(connection, outlet, quick=True)


def send_all(
    connection: Connection, outlet: Outlet, *, quick: bool = False, late_s: float = 0.0
) -> bool:
    """Send what is due now. Returns False when nothing is. Timers come `late_s` too late.

    The interface may refuse datagrams of the size that the path has carried, because its route or
    its MTU has changed. Then their contents go out again at once, in smaller ones.
    """
    now = monotonic()
    sent = False
    for _ in range(_MAX_REFUSALS):
        refused = False
        for train in connection.trains_to_send(now, quick=quick, late_s=late_s):
            sent = True
            if not outlet.send(train):
                refused = True
                connection.on_refused(train, now)
        if not refused:
            break
    return sent
