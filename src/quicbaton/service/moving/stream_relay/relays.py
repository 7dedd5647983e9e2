"""All relayed streams of one process, in both roles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.baton.snapshot import RelayedStream
from quicbaton.errors import PeerError
from quicbaton.handoff.messages import RelayedDatagram, RelayMessage, StreamCredit, StreamsCut
from quicbaton.http3.codes import ErrorCode
from quicbaton.reasons import Reason
from quicbaton.service.moving.stream_relay.hop import Hop
from quicbaton.service.moving.stream_relay.new_owner import NewOwner
from quicbaton.service.moving.stream_relay.stand_in import StandIn
from quicbaton.service.moving.stream_relay.wire import Wire
from quicbaton.service.peers.link import Link

_LOG: Final = logging.getLogger("quicbaton.relays")

_SHORT_OF_MEMORY: Final = "the server is short of memory, and these requests hold most of it"


class LeftBehind(NamedTuple):
    """A protocol object whose connection moves on without some of its streams."""

    protocol: QuicConnectionProtocol
    stand_in: StandIn


class _Left(NamedTuple):
    protocol: QuicConnectionProtocol
    stand_in: StandIn
    wire: Wire


class PassedOn(NamedTuple):
    """A relay whose connection moves on once more, and the state of its streams."""

    relay: NewOwner
    streams: list[RelayedStream]


class StreamRelays:
    """By handoff id, which only the two processes know. `on_settled` is called when requests of one
    connection less run here for another process."""

    def __init__(self, on_settled: Callable[[], None]) -> None:
        self._on_settled = on_settled
        self._left: dict[bytes, _Left] = {}
        self._owned: dict[bytes, NewOwner] = {}
        #: By the ids of both handoffs.
        self._hops: dict[bytes, Hop] = {}
        self._loop = asyncio.get_running_loop()
        self._none_left = asyncio.Event()
        #: Streams of connections that arrived here whose requests still ran at the other process.
        self.relayed = 0
        #: Those of them that were reset because that process ended, or ended them.
        self.cut = 0

    @property
    def left(self) -> int:
        """The number of connections that have moved on, of which requests still run here, or are
        relayed through here."""
        return len(self._left) + len(set(self._hops.values()))

    async def until_none_left(self, timeout_s: float) -> None:
        """Wait, at most `timeout_s`, until no request runs here for others."""
        if self.left:
            self._none_left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
                    await self._none_left.wait()

    def describe_left(self) -> list[str]:
        """A line for each of them: connection and streams."""
        described = [_describe(left) for left in self._left.values()]
        return described + [_describe_hop(hop) for hop in set(self._hops.values())]

    def leave(
        self, left: LeftBehind, link: Link | None, connection_id: bytes, handoff_id: bytes
    ) -> None:
        """The connection is committed to the process at the other end of `link`. COMMITTED goes out
        before the event loop turns, and the application's bytes come after it."""
        if link is None:
            self.lose(left)
            return
        if left.protocol._http is not None:
            left.protocol._http.rest_moved()
        wire = Wire(link, connection_id, handoff_id)
        self._left[handoff_id] = _Left(left.protocol, left.stand_in, wire)
        # Later: the application may be in the middle of the call that ends its last stream.
        left.stand_in.on_over = lambda: self._deliver_soon(handoff_id)
        left.stand_in.when_memory_is_short(lambda: self._break_left(handoff_id, _SHORT_OF_MEMORY))
        self._loop.call_soon(self._open, handoff_id)

    def pass_on(self, passed: PassedOn, link: Link | None, handoff_id: bytes) -> None:
        """A connection is committed to the process at the end of `link`, and its streams that were
        relayed to this one pass through it from now on."""
        left = passed.relay.wire
        self._owned.pop(left.handoff_id, None)
        held = passed.relay.take_held()
        if link is None:
            left.send_cut(Reason.LINK_LOST)
            return
        hop = Hop(left, Wire(link, left.connection_id, handoff_id), passed.streams)
        for message in held:
            hop.on_left(message)
        self._hops[left.handoff_id] = self._hops[handoff_id] = hop
        self._loop.call_soon(self._open_hop, hop)

    def give_back(self, passed: PassedOn, session: Session) -> None:
        """The connection of a relay that was to be passed on stays here, as `session`."""
        protocol = session.protocol
        protocol.relay(passed.relay)
        try:
            self.cut += passed.relay.release(
                session.connection, protocol._http, protocol.transmit_soon
            )
        except PeerError as error:
            self._break_owned(passed.relay, error)

    def lose_passed(self, passed: PassedOn) -> None:
        """The connection has no owner."""
        self._owned.pop(passed.relay.wire.handoff_id, None)
        passed.relay.wire.send_cut(Reason.LOST)

    def adopt(
        self, relay: NewOwner, session: Session, link: Link | None, handoff_id: bytes
    ) -> None:
        """A connection is resumed here, and requests of it still run at the end of `link`."""
        self.relayed += relay.stream_count
        if link is None:
            self.cut += relay.cut(ErrorCode.H3_INTERNAL_ERROR)
            return
        self._owned[handoff_id] = relay
        wire = Wire(link, session.connection.name, handoff_id)
        # Not a method of the session: a handoff that is refused leaves a new one.
        transmit_soon = session.protocol.transmit_soon
        relay.attach(wire, transmit_soon, lambda: self._forget_owned(handoff_id))
        # The message that the connection was taken is sent before the event loop turns.
        self._loop.call_soon(relay.start)

    # --- from links -----------------------------------------------------------------------------

    def on_message(self, link: Link, message: RelayMessage) -> None:
        """Pass a message on to its relay. A message that the relay may not send ends that relay
        alone.

        PeerError for a message that is not about this link's relays: close the link.
        """
        hop = self._hops.get(message.handoff_id)
        if hop is not None and self._on_hop(hop, link, message):
            return
        left = self._left.get(message.handoff_id)
        owned = self._owned.get(message.handoff_id)
        wire = left.wire if left is not None else owned.wire if owned is not None else None
        if wire is None and hop is not None:
            # A stream of a session that has ended meanwhile; other passing streams are in order.
            hop.refuse(message)
            return
        if wire is None:
            # Credit crosses with a stream's end; any other message is for a relay that we lost.
            if not isinstance(message, (StreamsCut, StreamCredit, RelayedDatagram)):
                link.send(
                    StreamsCut(message.connection_id, message.handoff_id, Reason.NO_SUCH_CONNECTION)
                )
            return
        _check(wire, link, message)
        if left is not None:
            self._on_left(message.handoff_id, left, message)
        elif owned is not None and isinstance(message, StreamsCut):
            self.cut += owned.cut(ErrorCode.H3_REQUEST_CANCELLED)
        elif owned is not None and not isinstance(message, StreamsCut):
            try:
                owned.on_message(message)
            except PeerError as error:
                self._break_owned(owned, error)

    def link_lost(self, link: Link) -> None:
        """The link is lost: its relays are cut, on this side as on the other."""
        for handoff_id, left in list(self._left.items()):
            if left.wire.link is link:
                self._end(
                    handoff_id,
                    left,
                    ErrorCode.H3_INTERNAL_ERROR,
                    "the connection's new owner is lost",
                )
        for owned in list(self._owned.values()):
            if owned.wire.link is link:
                self.cut += owned.cut(ErrorCode.H3_INTERNAL_ERROR)
        for hop in set(self._hops.values()):
            if hop.left.link is link:
                hop.cut_owner()
            if hop.owner.link is link:
                hop.cut_left(Reason.LINK_LOST)
            self._forget_if_over(hop)

    # --- endings --------------------------------------------------------------------------------

    def cut_left(self, code: Reason, reason: str) -> list[str]:
        """This process ends: end the requests that still run here for connections that have moved
        on, and tell their owners. Returns a line for each."""
        cut = self.describe_left()
        for handoff_id, left in list(self._left.items()):
            left.wire.send_cut(code)
            self._end(handoff_id, left, ErrorCode.H3_REQUEST_CANCELLED, reason)
        for hop in set(self._hops.values()):
            hop.cut(code)
            self._forget_if_over(hop)
        return cut

    def lose(self, left: LeftBehind) -> None:
        """There is no process to which to relay."""
        left.stand_in.cut(ErrorCode.H3_INTERNAL_ERROR, "the connection is lost")
        left.protocol.process_events()
        left.protocol.connection_left()

    # --- helpers --------------------------------------------------------------------------------

    def _open(self, handoff_id: bytes) -> None:
        left = self._left.get(handoff_id)
        if left is not None:
            left.stand_in.open(left.wire)
            self._deliver(handoff_id, left)

    def _open_hop(self, hop: Hop) -> None:
        self._within(hop, hop.open)

    def _on_hop(self, hop: Hop, link: Link, message: RelayMessage) -> bool:
        """Whether a message is for a hop; False: it is for a program of this process."""
        is_left = message.handoff_id == hop.left.handoff_id
        _check(hop.left if is_left else hop.owner, link, message)
        if is_left:
            self._within(hop, lambda: hop.on_left(message))
        elif isinstance(message, StreamsCut):
            self._within(hop, lambda: hop.cut_left(Reason.parse(message.code)))
        elif hop.takes(message):
            self._within(hop, lambda: hop.on_owner(message))
        else:
            return False
        return not isinstance(message, StreamsCut) or message.handoff_id not in self._left

    def _within(self, hop: Hop, act: Callable[[], None]) -> None:
        """Perform `act`. A message that one of its ends may not send ends this hop."""
        try:
            act()
        except PeerError as error:
            _log_broken(hop, error)
            hop.cut(error.code)
        self._forget_if_over(hop)

    def _break_left(self, handoff_id: bytes, reason: str) -> None:
        left = self._left.get(handoff_id)
        if left is not None:
            for stream_id in left.stand_in.stream_ids:
                # Not all of the handoff: others may pass through here.
                left.wire.send_reset(stream_id, ErrorCode.H3_INTERNAL_ERROR)
                left.wire.send_stop(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self._end(handoff_id, left, ErrorCode.H3_INTERNAL_ERROR, reason)

    def _break_owned(self, owned: NewOwner, error: PeerError) -> None:
        _log_broken(owned, error)
        owned.wire.send_cut(error.code)
        self.cut += owned.cut(ErrorCode.H3_INTERNAL_ERROR)

    def _forget_if_over(self, hop: Hop) -> None:
        if not hop.stream_ids:
            self._hops.pop(hop.left.handoff_id, None)
            self._hops.pop(hop.owner.handoff_id, None)
            self._tell_if_none_left()

    def _on_left(self, handoff_id: bytes, left: _Left, message: RelayMessage) -> None:
        if isinstance(message, StreamsCut):
            reason = f"the connection's new owner relays no more ({message.code})"
            code = 0 if message.code == Reason.CLOSED else ErrorCode.H3_REQUEST_CANCELLED
            self._end(handoff_id, left, code, reason)
            return
        try:
            left.stand_in.on_message(message)
        except PeerError as error:
            _log_broken(left.stand_in, error)
            self._break_left(handoff_id, str(error))
        else:
            self._deliver(handoff_id, left)

    def _deliver_soon(self, handoff_id: bytes) -> None:
        left = self._left.get(handoff_id)
        if left is not None:
            self._loop.call_soon(self._deliver, handoff_id, left)

    def _deliver(self, handoff_id: bytes, left: _Left) -> None:
        left.protocol.process_events()
        if not left.stand_in.stream_ids and handoff_id in self._left:
            self._forget_left(handoff_id)
            left.protocol.connection_left()

    def _end(self, handoff_id: bytes, left: _Left, error_code: int, reason: str) -> None:
        self._forget_left(handoff_id)
        left.stand_in.cut(error_code, reason)
        left.protocol.process_events()
        left.protocol.connection_left()

    def _forget_left(self, handoff_id: bytes) -> None:
        self._left.pop(handoff_id, None)
        self._tell_if_none_left()

    def _tell_if_none_left(self) -> None:
        self._on_settled()
        if not self.left:
            self._none_left.set()

    def _forget_owned(self, handoff_id: bytes) -> None:
        self._owned.pop(handoff_id, None)


def _describe(left: _Left) -> str:
    streams = ", ".join(map(str, left.stand_in.stream_ids))
    return f"{left.wire.connection_id.hex()}: requests still run on streams {streams}"


def _describe_hop(hop: Hop) -> str:
    streams = ", ".join(map(str, hop.stream_ids))
    return f"{hop.owner.connection_id.hex()}: streams {streams} are relayed through this process"


def _log_broken(relay: Hop | NewOwner | StandIn, error: PeerError) -> None:
    _LOG.warning("%r ends, by a message of the other process: %s", relay, error)


def _check(wire: Wire, link: Link, message: RelayMessage) -> None:
    if wire.link is not link or wire.connection_id != message.connection_id:
        raise PeerError(f"{message!r} is not about this link's", code=Reason.WRONG_CONNECTION)
