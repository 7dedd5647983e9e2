"""Inputs for tests of the handoff machines: every event, and a way into every state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quicbaton.errors import InternalError, PeerError
from quicbaton.handoff import (
    CuttingOver,
    CuttingOverState,
    Forwarding,
    ForwardingState,
    Giving,
    GivingByLedger,
    GivingByStore,
    GivingState,
    Outcome,
    Taking,
    TakingByLedger,
    TakingByStore,
    TakingState,
)
from quicbaton.handoff.effects import Effect, Report, Send
from quicbaton.handoff.events import (
    Cancel,
    ConnectionClosed,
    CutoverSeen,
    DeadlinePassed,
    Event,
    GivenOn,
    LinkLost,
    LinkUp,
    PeerDead,
    RebuildFailed,
    Rebuilt,
    Received,
    Save,
    Sealed,
    SealFailed,
    Spoke,
    Start,
    StrayArrived,
    TakenBack,
)
from quicbaton.handoff.machine import Machine
from quicbaton.handoff.messages import (
    Abort,
    Accept,
    Baton,
    ClaimRequest,
    Closed,
    Committed,
    Cutover,
    CutoverAck,
    HandoffMessage,
    Moved,
    MovedAck,
    Offer,
    ProxiedTrain,
    Ready,
    Refuse,
    Resumed,
    Stray,
    Taken,
)
from quicbaton.handoff.store_questions import (
    StoreConflict,
    StoreDone,
    StoreFailed,
    StoreFound,
    StoreUnknown,
)
from quicbaton.ownership import Ledger
from quicbaton.ownership.store import Entry, EntryState, Holder
from quicbaton.reasons import Reason

CID = b"connection"
HANDOFF, OTHER = b"h" * 16, b"o" * 16
BATON_ID, DIGEST = b"b" * 16, b"d" * 32
LINK, NEW_LINK = 1, 2
SECOND_US = 1_000_000

ADDRESS = ("192.0.2.1", 443)
OFFER = Offer(CID, HANDOFF, 1, 100, 1, "S", "D", ADDRESS, True, b"")
ACCEPT = Accept(CID, HANDOFF, proxy=False)
STRAY = Stray(CID, HANDOFF, b"datagram", ("::1", 1), (), 0, 5)
READY = Ready(CID, HANDOFF, BATON_ID, DIGEST)
CLAIM = ClaimRequest(CID, HANDOFF, BATON_ID, DIGEST)
# All happens at the time 0 here, so nothing has stood still.
COMMITTED = Committed(CID, HANDOFF, 2, BATON_ID, DIGEST, 0)
MOVED = Moved(CID, HANDOFF, "E")
MOVED_ACK = MovedAck(CID, HANDOFF)

MESSAGES: list[HandoffMessage] = [
    OFFER,
    ACCEPT,
    Refuse(CID, HANDOFF, Reason.NO_ROOM, "no"),
    Baton(CID, HANDOFF, b"sealed"),
    READY,
    COMMITTED,
    Resumed(CID, HANDOFF, 1500),
    Abort(CID, HANDOFF, Reason.DISCARDED, "no"),
    CLAIM,
    STRAY,
    Cutover(CID, HANDOFF),
    CutoverAck(CID, HANDOFF),
    Closed(CID, HANDOFF),
    MOVED,
    MOVED_ACK,
    ProxiedTrain(CID, HANDOFF, b"train", 1200, ("::1", 1), (), 0),
]
START = Start(LINK, "S", "D", 100, 1, False)
PROXIED_START = Start(LINK, "S", "D", 100, 1, False, ADDRESS, True)
SEALED = Sealed(BATON_ID, DIGEST, b"sealed")
ARRIVED = StrayArrived(b"datagram", ("::1", 1), (), 0, 5)
REBUILT = Rebuilt(CID, 1, BATON_ID, DIGEST)
LOCAL_EVENTS: list[Event] = [
    LinkLost(LINK),
    PeerDead(True),
    Cancel(Reason.TAKEOVER, "no"),
    DeadlinePassed(),
    START,
    Save(False),
    SEALED,
    SealFailed(Reason.NOT_EXPORTABLE, "no"),
    ARRIVED,
    REBUILT,
    RebuildFailed(Reason.BATON_SEAL, "no"),
    LinkUp(NEW_LINK),
    TakenBack(),
    Spoke(1500),
    GivenOn("E"),
    CutoverSeen(),
    ConnectionClosed(),
]
EVENTS: list[Event] = [*LOCAL_EVENTS, *(Received(LINK, message) for message in MESSAGES)]

STORE = b"store"
SOURCE, DESTINATION = Holder("S", b"s" * 16), Holder("D", b"d" * 16)
SHARED_OFFER = msgspec.structs.replace(OFFER, store_id=STORE)
TAKEN = Taken(CID, HANDOFF, 2)
OFFERED = Entry(EntryState.OFFERED, 1, SOURCE, BATON_ID, DIGEST)
THEIRS = Entry(EntryState.HELD, 2, DESTINATION, BATON_ID, DIGEST)
OURS = Entry(EntryState.HELD, 2, SOURCE, BATON_ID, DIGEST)
ENDED = Entry(EntryState.CLOSED, 2, DESTINATION, BATON_ID, DIGEST)
FAILED, UNKNOWN = StoreFailed(Reason.STORE_FULL, "no"), StoreUnknown(Reason.STORE_SLOW, "no")
#: An answer that says the same to both sides would not try much.
ANSWERS: list[Event] = [StoreConflict(None), StoreFound(OFFERED), FAILED, UNKNOWN]
SOURCE_EVENTS = [*EVENTS, Received(LINK, TAKEN), StoreDone(OURS), *ANSWERS]
DESTINATION_EVENTS = [
    *EVENTS,
    Received(LINK, SHARED_OFFER),
    Received(LINK, TAKEN),
    StoreDone(THEIRS),
    *ANSWERS,
]


def received(message: HandoffMessage, link: int = LINK) -> Received:
    return Received(link, message)


# --- a way into every state -----------------------------------------------------------------------

_ABORT = received(Abort(CID, HANDOFF, Reason.DISCARDED, "no"))
_REFUSE = received(Refuse(CID, HANDOFF, Reason.NO_ROOM, "no"))
_PROXIED = received(Accept(CID, HANDOFF, proxy=True))
_BATON = received(Baton(CID, HANDOFF, b"sealed"))
_TO_FROZEN: list[Event] = [START, received(ACCEPT), SEALED]
_TO_FROZEN_BY_STORE: list[Event] = [*_TO_FROZEN, StoreDone(OFFERED)]
_TO_READY: list[Event] = [received(OFFER), _BATON, REBUILT]
_TO_COMMITTING: list[Event] = [received(SHARED_OFFER), _BATON, REBUILT]

GIVING_BY_LEDGER: dict[GivingState, list[Event]] = {
    GivingState.IDLE: [],
    GivingState.OFFERED: [PROXIED_START],
    GivingState.SEALING: _TO_FROZEN[:2],
    GivingState.FROZEN: _TO_FROZEN,
    GivingState.SAVED: [Save(False), SEALED],
    GivingState.KEPT: [START, _REFUSE],
}
GIVING_BY_STORE: dict[GivingState, list[Event]] = {
    GivingState.IDLE: [],
    GivingState.OFFERED: [PROXIED_START],
    GivingState.SEALING: _TO_FROZEN[:2],
    GivingState.PUBLISHING: _TO_FROZEN,
    GivingState.FROZEN: _TO_FROZEN_BY_STORE,
    GivingState.RECLAIMING: [*_TO_FROZEN_BY_STORE, DeadlinePassed()],
    GivingState.KEPT: [START, _REFUSE],
}
FORWARDING: dict[ForwardingState, list[Event]] = {
    ForwardingState.FORWARDING: [*_TO_FROZEN, received(READY)],
    ForwardingState.PROXYING: [PROXIED_START, _PROXIED, SEALED, received(READY)],
    ForwardingState.DONE: [*_TO_FROZEN, received(READY), received(Cutover(CID, HANDOFF))],
}
FORWARDING_BY_STORE: dict[ForwardingState, list[Event]] = {
    ForwardingState.FORWARDING: [*_TO_FROZEN_BY_STORE, received(TAKEN)],
    ForwardingState.PROXYING: [
        *(PROXIED_START, _PROXIED, SEALED, StoreDone(OFFERED)),
        received(TAKEN),
    ],
    ForwardingState.DONE: [
        *(*_TO_FROZEN_BY_STORE, received(TAKEN)),
        received(Cutover(CID, HANDOFF)),
    ],
}
TAKING_BY_LEDGER: dict[TakingState, list[Event]] = {
    TakingState.IDLE: [],
    TakingState.ACCEPTED: _TO_READY[:1],
    TakingState.REBUILDING: _TO_READY[:2],
    TakingState.READY: _TO_READY,
    TakingState.LAST_WORDS: [*_TO_READY, PeerDead(True)],
    TakingState.ASKING: [*_TO_READY, LinkLost(LINK), LinkUp(LINK)],
    TakingState.DISCARDED: [*_TO_READY, _ABORT],
}
TAKING_BY_STORE: dict[TakingState, list[Event]] = {
    TakingState.IDLE: [],
    TakingState.ACCEPTED: _TO_COMMITTING[:1],
    TakingState.REBUILDING: _TO_COMMITTING[:2],
    TakingState.COMMITTING: _TO_COMMITTING,
    TakingState.DISCARDED: [*_TO_COMMITTING, _ABORT],
}
CUTTING_OVER: dict[CuttingOverState, list[Event]] = {
    CuttingOverState.FORWARDED: [*_TO_READY, received(COMMITTED)],
    CuttingOverState.PROXIED: [*_TO_READY, received(COMMITTED)],
    CuttingOverState.CUT_OFF: [*_TO_READY, received(COMMITTED), LinkLost(LINK)],
    CuttingOverState.HANDED_ON: [*_TO_READY, received(COMMITTED), GivenOn("E")],
    CuttingOverState.CUTTING: [*_TO_READY, received(COMMITTED), CutoverSeen()],
    CuttingOverState.DONE: [*_TO_READY, received(COMMITTED), ConnectionClosed()],
}
CUTTING_OVER_BY_STORE: dict[CuttingOverState, list[Event]] = {
    state: [*_TO_COMMITTING, StoreDone(THEIRS), *events[4:]]
    for state, events in CUTTING_OVER.items()
}
_CANNOT_SEND = (CuttingOverState.PROXIED, CuttingOverState.CUT_OFF)


def after(machine: Machine[Any], events: Sequence[Event]) -> Machine[Any]:
    """The machine that goes on after these events."""
    for event in events:
        machine.handle(event, 0)
        machine = machine.successor or machine
    return machine


def successor(machine: Machine[Any]) -> Machine[Any]:
    """The machine that goes on where this one has ended."""
    assert machine.ended
    assert machine.successor is not None
    return machine.successor


def giving_in(state: GivingState) -> tuple[GivingByLedger, Ledger]:
    machine, ledger = _source(GIVING_BY_LEDGER[state], state)
    assert isinstance(machine, GivingByLedger)
    return machine, ledger


def giving_by_store_in(state: GivingState) -> tuple[GivingByStore, Ledger]:
    machine, ledger = _source(GIVING_BY_STORE[state], state, by_store=True)
    assert isinstance(machine, GivingByStore)
    return machine, ledger


def forwarding_in(state: ForwardingState, *, by_store: bool = False) -> tuple[Forwarding, Ledger]:
    paths = FORWARDING_BY_STORE if by_store else FORWARDING
    machine, ledger = _source(paths[state], state, by_store=by_store)
    assert isinstance(machine, Forwarding)
    return machine, ledger


def _source(
    events: list[Event], state: GivingState | ForwardingState, *, by_store: bool = False
) -> tuple[Machine[Any], Ledger]:
    ledger = Ledger()
    ledger.own(CID)
    giving: Giving = GivingByLedger(CID, HANDOFF, ledger)
    if by_store:
        giving = GivingByStore(CID, HANDOFF, ledger, incarnation=SOURCE.incarnation, store_id=STORE)
    machine = after(giving, events)
    assert machine.state is state
    return machine, ledger


def taking_in(state: TakingState) -> tuple[TakingByLedger, Ledger]:
    machine, ledger = _destination(TAKING_BY_LEDGER[state], state)
    assert isinstance(machine, TakingByLedger)
    return machine, ledger


def taking_by_store_in(state: TakingState) -> tuple[TakingByStore, Ledger]:
    machine, ledger = _destination(TAKING_BY_STORE[state], state, by_store=True)
    assert isinstance(machine, TakingByStore)
    return machine, ledger


def cutting_over_in(
    state: CuttingOverState, *, by_store: bool = False
) -> tuple[CuttingOver, Ledger]:
    paths = CUTTING_OVER_BY_STORE if by_store else CUTTING_OVER
    machine, ledger = _destination(paths[state], state, by_store=by_store)
    assert isinstance(machine, CuttingOver)
    return machine, ledger


def _destination(
    events: list[Event], state: TakingState | CuttingOverState, *, by_store: bool = False
) -> tuple[Machine[Any], Ledger]:
    ledger = Ledger()
    can_send = state not in _CANNOT_SEND
    taking: Taking = TakingByLedger(
        CID, HANDOFF, ledger, name="D", formats=frozenset([1]), can_send=can_send
    )
    if by_store:
        taking = TakingByStore(
            CID,
            HANDOFF,
            ledger,
            incarnation=DESTINATION.incarnation,
            store_id=STORE,
            name="D",
            formats=frozenset([1]),
            can_send=can_send,
        )
    machine = after(taking, events)
    assert machine.state is state
    return machine, ledger


# --- what comes of an event -----------------------------------------------------------------------


def sent(effects: list[Effect]) -> list[HandoffMessage]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def outcomes(effects: list[Effect]) -> list[tuple[Outcome, str]]:
    return [(e.outcome, e.code) for e in effects if isinstance(e, Report)]


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def row(machine: Machine[Any], event: Event) -> str | None:
    """The cell as a line of the written table, or None when it is a typed error."""
    before = machine.state
    cells = machine.TABLE
    kind = type(event.message if isinstance(event, Received) else event)
    of_another_link = isinstance(event, LinkLost) and machine._link is None
    if (before, kind) not in cells and not of_another_link:
        with pytest.raises(PeerError if isinstance(event, Received) else InternalError) as caught:
            machine.handle(event, 10)
        assert caught.value.code in (
            *("unexpected_message", "unexpected_event"),
            *("wrong_connection", "wrong_handoff"),
        )
        assert machine.state is before
        return None
    effects = machine.handle(event, 10)
    names = [
        f"Send({type(e.message).__name__})" if isinstance(e, Send) else type(e).__name__
        for e in effects
        if not isinstance(e, Report)
    ]
    report = " ".join(f"[{outcome.value}: {code}]" for outcome, code in outcomes(effects))
    state = (machine.successor or machine).state
    result = " ".join([state.value, *names, report]).rstrip()
    return f"{before.value} + {kind.__name__} -> {result}"


def written(name: str) -> list[str]:
    return (Path(__file__).parent / name).read_text().splitlines()
