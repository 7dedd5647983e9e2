"""The common base of both directions of a handoff: a machine, its effects, and its waiters."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple, get_args

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.handoff import CuttingOver, Forwarding, Giving, Outcome, Taking
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import (
    Accept,
    Baton,
    ClaimRequest,
    Committed,
    Cutover,
    CutoverAck,
    HandoffMessage,
    Message,
    Moved,
    MovedAck,
    Offer,
    Ready,
    Resumed,
)
from quicbaton.handoff.timeline import Phase
from quicbaton.reasons import Reason
from quicbaton.service.failpoints import armed, reach
from quicbaton.service.moving.timelines import TimelineRecorder
from quicbaton.service.peers.link import Link

Machine = Giving | Forwarding | Taking | CuttingOver
Performers = Mapping[type[fx.Effect], Callable[[Any, Any], None]]


class HandoffResult(NamedTuple):
    """The end of a handoff, for the process or command that asked for it."""

    outcome: Outcome
    code: Reason
    message: str


class Handoff(ABC):
    """One connection on its way from one process to another, seen by one of the two.

    It holds everything about the handoff: the machine that decides, one up to the commit and
    another after it, and all that their effects need. `feed(handoff, event)` queues an event: an
    event that results from effects is handled after all of these were performed.
    """

    #: The method for each kind of effect; it takes the handoff and the effect.
    PERFORMERS: ClassVar[Performers]

    def __init__(
        self,
        machine: Machine,
        pid: int | None,
        recorder: TimelineRecorder,
        links: Mapping[int, Link],
        feed: Callable[[Handoff, ev.Event], None],
    ) -> None:
        self.machine: Machine = machine
        self.connection_id = machine.connection_id
        #: The process at the other end, once there is one.
        self.pid = pid
        #: The other process's name, where it is known.
        self.peer = ""
        self.recorder = recorder
        self._links = links
        self._feed = feed
        #: Whether its registry has counted it as unfinished.
        self.counted = False
        #: The process to which the connection was given, as its registry has counted; empty: none.
        self.counted_given = ""
        self._waiter: asyncio.Future[HandoffResult] | None = None

    def __repr__(self) -> str:
        return repr(self.machine)

    @property
    def link(self) -> Link | None:
        """The link that this handoff uses now, if it is up."""
        number = self.machine.link
        return None if number is None else self._links.get(number)

    @property
    def ended(self) -> bool:
        """Whether no event changes it any more."""
        return self.machine.ended

    @property
    @abstractmethod
    def is_unfinished(self) -> bool:
        """Whether it keeps this process from ending."""

    @property
    def is_given(self) -> bool:
        """Whether the connection was given away, and this process forwards or sends for its owner:
        its client may be absent for as long as it likes."""
        return False

    def feed(self, event: ev.Event) -> None:
        """Have the machine handle an event, after those that wait already."""
        self._feed(self, event)

    def handle(self, event: ev.Event, now_us: int) -> None:
        """Let the machine decide, and perform its effects."""
        if type(event) is ev.DeadlinePassed and not self.is_late(now_us):
            return
        if type(event) is ev.Received and (phase := _PHASES.get(type(event.message))) is not None:
            self.recorder.mark(phase, now_us)
        try:
            effects = self.machine.handle(event, now_us)
        except QuicbatonError as error:
            self._refused(event, error)
            return
        if self.machine.successor is not None:
            self.machine = self.machine.successor
        for effect in effects:
            try:
                self.PERFORMERS[type(effect)](self, effect)
            except Exception as error:
                # The boundary between handoffs: one connection's failure must not be another's.
                self._failed(effect, error)
        if self.machine.ended:
            self.recorder.end()

    def is_late(self, now_us: int) -> bool:
        """Whether the machine's deadline has passed."""
        deadline_us = self.machine.get_timer()
        return deadline_us is not None and now_us >= deadline_us

    def wait(self) -> asyncio.Future[HandoffResult]:
        """A future that gets its result."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def finish(self, result: HandoffResult) -> None:
        """Give the result to all that wait for it."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(result)

    def link_lost(self, link: Link) -> None:
        """The link is lost, and all its messages were handled."""
        self.feed(ev.LinkLost(link.number))

    def send(self, effect: fx.Send) -> None:
        """Send a message. A link that is gone, or takes no message, is lost to the machine."""
        link = self._links.get(effect.link)
        if link is None:
            self.feed(ev.LinkLost(effect.link))
        else:
            send(link, effect.message)
            phase = _PHASES.get(type(effect.message))
            if phase is not None:
                self.recorder.mark(phase)

    @abstractmethod
    def lose(self) -> None:
        """The connection is ours, and cannot be brought back to life: its client is told."""

    @abstractmethod
    def forget(self) -> None:
        """The handoff has ended: release all that it holds."""

    # --- helpers --------------------------------------------------------------------------------

    def _failed(self, effect: fx.Effect, error: Exception) -> None:
        log(f"{type(effect).__name__} of {self!r} failed", error)
        if isinstance(effect, fx.DestroyKeys):
            os.abort()  # A process that might still send after the commit must not live.
        if isinstance(effect, (fx.Resume, fx.ThawConnection)):
            self.lose()

    def _refused(self, event: ev.Event, error: QuicbatonError) -> None:
        """Close the link of a peer that broke a rule; report any other error as our own mistake."""
        link = self._links.get(event.link) if isinstance(event, ev.Received) else None
        if link is not None and isinstance(error, PeerError):
            link.abort()
        else:
            log(f"{self!r} refused {type(event).__name__}", error)


def send(link: Link, message: HandoffMessage) -> None:
    """Send a handoff's message, without delay if a client waits for it."""
    before, after, is_unhurried = _SENDING[type(message)]
    if armed:
        reach(before)
    if is_unhurried:
        link.send_unhurried(message)
    else:
        link.send(message)
    if armed:
        reach(after)


def log(what: str, error: Exception) -> None:
    """Log a failure that affects no other handoff."""
    asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


#: The phases that begin with a message, at both sides.
_PHASES: Final[dict[type, Phase]] = {
    Offer: Phase.OFFER,
    Accept: Phase.ACCEPT,
    Baton: Phase.BATON,
    Ready: Phase.READY,
    ClaimRequest: Phase.READY,
    Committed: Phase.COMMIT,
    Cutover: Phase.CUTOVER,
}
#: Messages for which no client waits: its connection is still served, or is served again.
_UNHURRIED: Final = (Offer, Accept, Cutover, CutoverAck, Moved, MovedAck, Resumed)
#: The failpoints around a message, and whether it is one of those. Made once: strays are many.
_SENDING: Final[dict[type, tuple[str, str, bool]]] = {
    kind: (
        f"before_{kind.__struct_config__.tag}",
        f"after_{kind.__struct_config__.tag}",
        kind in _UNHURRIED,
    )
    for kind in get_args(Message)
    if issubclass(kind, HandoffMessage)
}
