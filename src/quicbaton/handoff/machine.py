"""The common base of the machines of a handoff: a state, a table, a deadline, a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from quicbaton.errors import InternalError, PeerError
from quicbaton.handoff.effects import Effect
from quicbaton.handoff.events import DeadlinePassed, Event, LinkLost, Received
from quicbaton.handoff.waits import Waits
from quicbaton.reasons import Reason


class MachineState(Enum):
    """A state of a machine. Each exists once, so its address is hash enough: Enum's own hash is a
    call of Python code, and every event asks the tables several times."""

    __hash__ = object.__hash__


StateT = TypeVar("StateT", bound=MachineState)

#: Takes the machine, the event and the time; returns the next state and the effects.
Rule = Callable[..., tuple[Any, list[Effect]]]
#: State, events or messages, the rule, the states that it may lead to.
Row = tuple[StateT, tuple[type, ...], Rule, tuple[StateT, ...]]
#: By (state, event or message type): the rule and its targets. A missing cell is an error.
Table = dict[tuple[StateT, type], tuple[Rule, tuple[StateT, ...]]]


def table(rows: Iterable[Row[StateT]]) -> Table[StateT]:
    """The rows by their cells."""
    return {
        (state, kind): (rule, targets) for state, kinds, rule, targets in rows for kind in kinds
    }


class Machine(ABC, Generic[StateT]):
    """One side's part in one handoff of one connection, up to the commit or after it.

    A subclass sets `ROLE`, `TABLE`, `ENDED`, and `WAITS`: the longest time in each state, None for
    no limit. A state that is not in `WAITS` keeps the deadline of the one before.
    """

    ROLE: ClassVar[str]
    TABLE: ClassVar[Table[Any]]
    ENDED: ClassVar[tuple[MachineState, ...]]
    WAITS: ClassVar[dict[Any, Callable[[Waits], float] | None]]

    #: The machine that takes over from this one; set by the event that ended it.
    successor: Machine[Any] | None = None

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        state: StateT,
        waits: Waits,
        link: int | None = None,
    ) -> None:
        self.connection_id = connection_id
        self._handoff_id = handoff_id
        self.state = state
        self._waits = waits
        self._link = link
        self._deadline_us: int | None = None
        #: No event changes this machine any more; without a `successor` the runtime may forget it.
        self.ended = state in self.ENDED

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.connection_id.hex()}, {self.state.value}, "
            f"link={self._link})"
        )

    @property
    def handoff_id(self) -> bytes:
        """The id in messages to this machine."""
        return self._handoff_id

    @property
    def link(self) -> int | None:
        """The link that this handoff uses now, if there is one."""
        return self._link

    def get_timer(self) -> int | None:
        """When to call `handle_timer`, or None."""
        return self._deadline_us

    def handle_timer(self, now_us: int) -> list[Effect]:
        """Let time have passed. Does nothing before `get_timer()`."""
        if self._deadline_us is None or now_us < self._deadline_us:
            return []
        return self.handle(DeadlinePassed(), now_us)

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Take one event. Returns the effects, to be performed in order. Look at `successor` before
        that.

        Raises `PeerError` for a message that does not belong here (close that link) and
        `InternalError` for an event that the runtime should not have sent. Either way nothing has
        changed. From a source's freeze on only its machine changes the ledger's record: a
        `FencedError` means that another part of the process changed it.
        """
        # `type`, not isinstance: no kind of event has subclasses, and Python's ABCs take a
        # microsecond to find that a struct is not of a class.
        kind: type
        if type(event) is Received:
            stale = self._check_address(event)
            if stale is not None:
                return stale
            kind = type(event.message)
        else:
            if type(event) is LinkLost and event.link != self._link:
                return []
            kind = type(event)
        before = self.state
        cell = self.TABLE.get((before, kind))
        if cell is None:
            raise self._missing_cell(event)
        rule, targets = cell
        if kind is LinkLost:
            self._link = None
        effects: list[Effect]
        state, effects = rule(self, event, now_us)
        assert state in targets, (before, event, state)
        if state is not before:
            self.state = state
            self.ended = state in self.ENDED
            self._arm(now_us)
        return effects

    @abstractmethod
    def _check_address(self, event: Received) -> list[Effect] | None:
        """None for a message to this attempt; the effects of a message to another that is settled.

        Raises `PeerError` for one that is neither.
        """

    def _arm(self, now_us: int) -> None:
        if self.ended:
            self._deadline_us = None
        elif self.state in self.WAITS:
            wait = self.WAITS[self.state]
            self._deadline_us = None if wait is None else now_us + round(wait(self._waits) * 1e6)

    def _missing_cell(self, event: Event) -> PeerError | InternalError:
        where = f"does not fit a {self.ROLE} that is {self.state.value}"
        if isinstance(event, Received):
            return PeerError(
                f"{event.message!r} {where}: close the link", code=Reason.UNEXPECTED_MESSAGE
            )
        return InternalError(f"{type(event).__name__} {where}", code=Reason.UNEXPECTED_EVENT)
