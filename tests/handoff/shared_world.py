"""Handoffs with a shared store in a small world: three processes, one store, and all faults.

The outcome of an operation in the store is drawn: it is done and answered; refused; or lost before
or after it took effect. One whose outcome was unknown, or whose caller died, may yet take effect at
any later time. Entries may be swept at any time.

From outside the world checks that

* a snapshot is activated (thawed or resumed) at most once: two activations of one snapshot would
  protect two packets with one nonce;
* at most one living process has the connection awake, and none wakes it while a snapshot that is
  awake elsewhere lives on;
* no process answers with resets while an owner lives;
* in the end there is one owner, or the connection is closed, or all processes are silent for good.
"""

from collections import deque
from dataclasses import dataclass, field

from quicbaton.handoff import (
    CuttingOver,
    CuttingOverState,
    Forwarding,
    ForwardingState,
    GivingByStore,
    GivingState,
    Outcome,
    TakingByStore,
    TakingState,
    answer_stale,
)
from quicbaton.handoff.effects import (
    AnswerWithResets,
    Connect,
    Deliver,
    DestroyKeys,
    Discard,
    Effect,
    FreezeConnection,
    Rebuild,
    Report,
    Reroute,
    Resume,
    SealBaton,
    Send,
    StopForwarding,
    ThawConnection,
)
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
    Sealed,
    SealFailed,
    Start,
    StrayArrived,
    TakenBack,
)
from quicbaton.handoff.messages import HandoffMessage, Offer
from quicbaton.handoff.store_questions import (
    AskStore,
    ReadStore,
    StoreConflict,
    StoreDone,
    StoreFailed,
    StoreFound,
    StoreUnknown,
)
from quicbaton.ownership import Ledger, Ownership
from quicbaton.ownership.store import Conflict, Done, Entry, Operation, decide
from quicbaton.reasons import Reason
from tests.handoff.small_world import CID, DIGEST, Action, SmallWorld, baton_id

STORE = b"store id"
PROCESSES = ("A", "B", "C")
#: Fates of what was asked of the store.
FATES = ("done", "refused", "lost", "done, unheard")


@dataclass
class Link:
    ends: tuple[str, str]
    inboxes: dict[str, deque[HandoffMessage]] = field(default_factory=dict)
    cut: bool = False
    unread_ends: set[str] = field(default_factory=set)

    def other(self, process: str) -> str:
        return self.ends[1] if process == self.ends[0] else self.ends[0]


@dataclass
class Side:
    """One side's machine, the one that goes on, and its runtime's notes."""

    process: str
    machine: GivingByStore | Forwarding | TakingByStore | CuttingOver
    baton: int | None = None  # number of the snapshot that it sealed or rebuilt
    #: Operations in the store without an answer yet, oldest first.
    asked: list[AskStore | ReadStore] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    peer: str = ""
    sealing: bool = False
    rebuilding: bool = False
    wants_link: bool = False
    told_of_death: bool = False

    @property
    def gives(self) -> bool:
        return isinstance(self.machine, (GivingByStore, Forwarding))


@dataclass
class Budget:
    """How often each misfortune may happen; what is not listed may happen whenever it can."""

    starts: int = 0
    #: Handoffs between two processes that need no store.
    moves: int = 0
    cuts: int = 0
    crashes: int = 0
    cancels: int = 0
    failures: int = 0
    strays: int = 0
    timers: int = 0
    #: Operations in the store that do not simply work.
    troubles: int = 0
    sweeps: int = 0


class SharedWorld(SmallWorld):
    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self.awake = "A"
        self.ledgers = {name: Ledger() for name in PROCESSES}
        self.ledgers["A"].own(CID)
        self.sides: list[Side] = []
        self.links: list[Link] = []
        self.entry: Entry | None = None
        #: Operations that nobody waits for and that may yet take effect.
        self.ghosts: list[Operation] = []

    # --- what may happen --------------------------------------------------------------------

    def progress(self) -> list[Action]:
        found: list[Action] = []
        for number, link in enumerate(self.links):
            for end in link.ends:
                if end in self.crashed:
                    continue
                if link.inboxes[end]:
                    found.append(("deliver", number, end))
                elif link.cut and end in link.unread_ends:
                    found.append(("eof", number, end))
        for number, side in self._living():
            if side.sealing:
                found.append(("seal", number, 1))
            if side.rebuilding:
                found.append(("rebuild", number, 1))
            if side.asked:
                found.append(("store", number, "done"))
            if side.wants_link and side.peer not in self.crashed:
                found.append(("connect", number))
        return found

    def misfortunes(self) -> list[Action]:
        found = [*self._wishes(), *self._breakdowns()]
        for number, side in self._living():
            found += self._blows(number, side)
        return found

    def _wishes(self) -> list[Action]:
        owner = self.awake
        if owner is None or any(side.gives and not self._settled(side) for side in self.sides):
            return []
        others = [name for name in PROCESSES if name != owner]
        found: list[Action] = []
        if self.budget.starts:
            found += [("start", name) for name in others]
        if self.budget.moves:
            free = (Ownership.ABSENT, Ownership.GIVEN)
            ready = [name for name in others if self.ledgers[name].record(CID).state in free]
            found += [("move", name) for name in ready if name not in self.crashed]
        return found

    def _settled(self, side: Side) -> bool:
        """It does not keep its process from beginning another handoff."""
        return side.machine.ended or side.process in self.crashed or side.process != self.awake

    def _breakdowns(self) -> list[Action]:
        found: list[Action] = []
        if self.budget.cuts:
            for number, link in enumerate(self.links):
                if not link.cut:
                    found += [("cut", number, kept) for kept in ("", *link.ends)]
        if self.budget.crashes:
            found += [("crash", name) for name in PROCESSES if name not in self.crashed]
        found += [("ghost", number) for number in range(len(self.ghosts))]
        if self.budget.sweeps and self.entry is not None:
            found.append(("sweep",))
        return found

    def _blows(self, number: int, side: Side) -> list[Action]:
        found: list[Action] = []
        if self.budget.failures:
            found += [("seal", number, 0)] if side.sealing else []
            found += [("rebuild", number, 0)] if side.rebuilding else []
        if side.asked and self.budget.troubles:
            found += [("store", number, fate) for fate in FATES[1:]]
        state = side.machine.state
        if not side.gives and state in (CuttingOverState.FORWARDED, CuttingOverState.CUTTING):
            if self.awake == side.process:
                found.append(("close", number))
            if state is CuttingOverState.FORWARDED:
                found.append(("cutover", number))
        if side.machine.ended or state in (GivingState.IDLE, TakingState.IDLE):
            return found
        if self.budget.cancels:
            found.append(("cancel", number))
        if self.budget.timers and side.machine.get_timer() is not None:
            found.append(("timer", number))
        if side.peer in self.crashed and not side.told_of_death:
            found.append(("peer_dead", number))
        frozen = (GivingState.SEALING, GivingState.PUBLISHING, GivingState.FROZEN)
        later = (GivingState.RECLAIMING, ForwardingState.FORWARDING)
        if self.budget.strays and state in (*frozen, *later):
            found.append(("stray", number))
        return found

    def _living(self) -> list[tuple[int, Side]]:
        return [(n, side) for n, side in enumerate(self.sides) if side.process not in self.crashed]

    # --- what happens -----------------------------------------------------------------------

    def _do_start(self, destination: str) -> None:
        self._spend("starts")
        assert self.awake is not None
        number = self._new_link(self.awake, destination)
        handoff_id = bytes([0x50 + len(self.sides)]) * 16
        machine = GivingByStore(
            CID,
            handoff_id,
            self.ledgers[self.awake],
            incarnation=_incarnation(self.awake),
            store_id=STORE,
        )
        self.sides.append(Side(self.awake, machine, peer=destination))
        start = Start(number, self.awake, destination, 100, 2, cutover_pending=False)
        self._tell(len(self.sides) - 1, start)

    def _do_move(self, destination: str) -> None:
        """By ledgers alone, at once: it is not this that is looked at."""
        self._spend("moves")
        assert self.awake is not None
        giver, taker = self.ledgers[self.awake], self.ledgers[destination]
        baton = bytes([0xE0 + self.budget.moves]) * 16
        giver.freeze(CID, b"h" * 16)
        giver.bind(CID, baton, DIGEST)
        claim = giver.commit(CID, baton, DIGEST, b"h" * 16, self.now_us)
        taker.adopt(CID, claim.term, baton, DIGEST)
        self.awake = destination

    def _new_link(self, one: str, other: str) -> int:
        link = Link((one, other), {one: deque(), other: deque()}, unread_ends={one, other})
        link.cut = bool({one, other} & self.crashed)
        self.links.append(link)
        return len(self.links) - 1

    def _do_seal(self, number: int, works: int) -> None:
        side = self.sides[number]
        side.sealing = False
        if not works:
            self._spend("failures")
            self._tell(number, SealFailed(Reason.NOT_EXPORTABLE, "a coroutine is in the way"))
            return
        assert side.baton is not None
        self._tell(number, Sealed(baton_id(side.baton), DIGEST, b"%d" % side.baton))

    def _do_rebuild(self, number: int, works: int) -> None:
        side = self.sides[number]
        side.rebuilding = False
        if not works:
            self._spend("failures")
            self._tell(number, RebuildFailed(Reason.BATON_SEAL, "no such key"))
            return
        assert side.baton is not None
        rebuilt = Rebuilt(CID, self.terms[side.baton], baton_id(side.baton), DIGEST)
        self._tell(number, rebuilt)

    def _do_store(self, number: int, fate: str) -> None:
        if fate != "done":
            self._spend("troubles")
        effect = self.sides[number].asked.pop(0)
        if fate == "refused":
            self._tell(number, StoreFailed(Reason.STORE_FULL, "no room"))
            return
        if isinstance(effect, ReadStore):
            unheard = fate in ("lost", "done, unheard")
            unknown = StoreUnknown(Reason.STORE_SLOW, "no answer")
            self._tell(number, unknown if unheard else StoreFound(self.entry))
            return
        if fate == "lost":
            self.ghosts.append(effect.operation)
            self._tell(number, StoreUnknown(Reason.STORE_SLOW, "no answer"))
            return
        result = self._apply(effect.operation)
        if fate == "done, unheard":
            self._tell(number, StoreUnknown(Reason.STORE_SLOW, "no answer"))
        elif isinstance(result, Done):
            self._tell(number, StoreDone(result.entry))
        else:
            self._tell(number, StoreConflict(result.entry))

    def _do_ghost(self, number: int) -> None:
        self._apply(self.ghosts.pop(number))

    def _apply(self, operation: Operation) -> Done | Conflict:
        result, write = decide(self.entry, operation)
        if write:
            self.entry = result.entry
        return result

    def _do_sweep(self) -> None:
        self._spend("sweeps")
        self.entry = None

    def _do_connect(self, number: int) -> None:
        side = self.sides[number]
        side.wants_link = False
        link = self._new_link(side.process, side.peer)
        self._tell(number, LinkUp(link))

    def _do_deliver(self, number: int, end: str) -> None:
        link = self.links[number]
        message = link.inboxes[end].popleft()
        side = self._addressee(end, message)
        if side is not None:
            self._tell(side, Received(number, message))
        elif isinstance(message, Offer):
            self._tell(self._new_taker(link.other(end), end, message), Received(number, message))
        else:
            self._run(None, end, answer_stale(self.ledgers[end], number, message))

    def _addressee(self, process: str, message: HandoffMessage) -> int | None:
        """As the runtime finds it: the destination of that handoff, else the latest source."""
        mine = [(n, side) for n, side in enumerate(self.sides) if side.process == process]
        for number, side in mine:
            if not side.gives and side.machine._handoff_id == message.handoff_id:
                return number
        givers = [number for number, side in mine if side.gives]
        return givers[-1] if givers and not isinstance(message, Offer) else None

    def _new_taker(self, source: str, process: str, offer: Offer) -> int:
        machine = TakingByStore(
            CID,
            offer.handoff_id,
            self.ledgers[process],
            incarnation=_incarnation(process),
            store_id=STORE,
            name=process,
            formats=frozenset([2]),
        )
        self.sides.append(Side(process, machine, peer=source))
        return len(self.sides) - 1

    def _do_cut(self, number: int, kept: str) -> None:
        """Break a link; what was under way to `kept` may still be read there."""
        self._spend("cuts")
        self._cut(self.links[number], kept)

    def _cut(self, link: Link, kept: str) -> None:
        link.cut = True
        for end in link.ends:
            if end != kept:
                link.inboxes[end].clear()

    def _do_eof(self, number: int, end: str) -> None:
        self.links[number].unread_ends.discard(end)
        for index, side in self._living():
            if side.process == end:
                self._tell(index, LinkLost(number))

    def _do_crash(self, process: str) -> None:
        self._spend("crashes")
        self.crashed.add(process)
        if self.awake == process:
            self.awake = None
            self.was_closed = True
        for link in self.links:
            if process in link.ends:
                self._cut(link, link.other(process))
        for side in self.sides:
            if side.process == process:
                asked = [e.operation for e in side.asked if isinstance(e, AskStore)]
                self.ghosts += asked
                side.asked.clear()

    def _do_peer_dead(self, number: int) -> None:
        self.sides[number].told_of_death = True
        self._tell(number, PeerDead(no_owner_lives=self._nobody_else_can_own(number)))

    def _nobody_else_can_own(self, number: int) -> bool:
        """A supervisor's verdict after asking all living processes."""
        return self.awake is None and all(
            side.machine.ended for index, side in self._living() if index != number
        )

    def _do_cancel(self, number: int) -> None:
        self._spend("cancels")
        self._tell(number, Cancel(Reason.TAKEOVER, "changed my mind"))

    def _do_timer(self, number: int) -> None:
        self._spend("timers")
        side = self.sides[number]
        timer = side.machine.get_timer()
        assert timer is not None
        self.now_us = max(self.now_us, timer)
        self._tell(number, DeadlinePassed())

    def _do_stray(self, number: int) -> None:
        self._spend("strays")
        self._tell(number, StrayArrived(b"datagram", ("::1", 1), (), 0, self.now_us))

    def _do_cutover(self, number: int) -> None:
        self._tell(number, CutoverSeen())

    def _do_close(self, number: int) -> None:
        process = self.sides[number].process
        self.awake = None
        self.was_closed = True
        self.ledgers[process].close(CID, self.now_us)
        self._tell(number, ConnectionClosed())

    # --- the runtimes -----------------------------------------------------------------------

    def _tell(self, number: int, event: Event) -> None:
        side = self.sides[number]
        assert side.process not in self.crashed
        effects = side.machine.handle(event, self.now_us)
        side.machine = side.machine.successor or side.machine
        self._run(number, side.process, effects)

    def _run(self, number: int | None, process: str, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                link = self.links[effect.link]
                if not link.cut:
                    link.inboxes[link.other(process)].append(effect.message)
            elif isinstance(effect, AnswerWithResets):
                self._reset()
            else:
                assert number is not None
                self._run_side(self.sides[number], effect)
        if number is not None and self.sides[number].machine.ended:
            self.sides[number].wants_link = False

    def _run_side(self, side: Side, effect: Effect) -> None:
        match effect:
            case AskStore() | ReadStore():
                side.asked.append(effect)
            case FreezeConnection():
                assert self.awake == side.process
                self.awake = None
            case SealBaton(term=term):
                self.terms.append(term)
                side.baton, side.sealing = len(self.terms) - 1, True
            case ThawConnection(term=term):
                assert side.baton is not None
                assert term == self.terms[side.baton] + 1
                side.sealing = False
                self._activate(side, term)
            case DestroyKeys():
                assert self.ledgers[side.process].record(CID).state is not Ownership.OWNED
            case Rebuild(sealed=sealed):
                side.baton, side.rebuilding = int(sealed), True
            case Resume(claim=claim):
                assert side.baton is not None
                claim.check(
                    connection_id=CID,
                    baton_term=self.terms[side.baton],
                    baton_id=baton_id(side.baton),
                    digest=DIGEST,
                )
                self._activate(side, claim.term)
                self._tell_of_moves(side)
            case Discard():
                assert Outcome.RESUMED not in side.outcomes
                side.rebuilding = False
            case Connect():
                side.wants_link = True
            case Report(outcome=outcome):
                side.outcomes.append(outcome)
            case Deliver() | StopForwarding() | Reroute():
                pass
            case _:
                raise AssertionError(effect)

    def _tell_of_moves(self, taker: Side) -> None:
        """Runtimes tell their machines that the connection came back, or went on."""
        for number, side in self._living():
            if side.gives and side.process == taker.process:
                if side.machine.state is ForwardingState.FORWARDING:
                    self._tell(number, TakenBack())
            elif side.machine.state is CuttingOverState.FORWARDED and side is not taker:
                self._tell(number, GivenOn(taker.process))

    # --- the checker ------------------------------------------------------------------------

    def _activate(self, side: Side, term: int) -> None:
        assert side.baton is not None
        assert side.baton not in self.activated, f"snapshot {side.baton} activated twice"
        assert self.awake is None, f"{side.process} woke while {self.awake} was awake"
        assert not self.was_closed, "an owner woke after the last one had died or closed"
        assert not self.resets, "an owner woke after its client was told that there is none"
        record = self.ledgers[side.process].record(CID)
        assert (record.state, record.term) == (Ownership.OWNED, term)
        # Only the process behind the latest snapshot may go on from it.
        assert side.baton == len(self.terms) - 1
        self.activated.add(side.baton)
        self.awake = side.process

    def _timers(self) -> list[tuple[int, int]]:
        found = [(side.machine.get_timer(), number) for number, side in self._living()]
        return [(timer, number) for timer, number in found if timer is not None]

    def _check_the_end(self) -> None:
        for _, side in self._living():
            assert side.machine.ended, side.machine
            allowed: tuple[list[Outcome], ...]
            if side.gives:
                allowed = (
                    [Outcome.KEPT],
                    [Outcome.GIVEN],
                    [Outcome.IN_DOUBT],
                    [Outcome.GIVEN, Outcome.LOST],
                    [Outcome.IN_DOUBT, Outcome.LOST],
                )
            else:
                allowed = ([Outcome.RESUMED], [Outcome.DISCARDED])
            assert side.outcomes in allowed, (side.machine, side.outcomes)
        if self.awake is not None:
            assert self.ledgers[self.awake].record(CID).state is Ownership.OWNED
        owners = [
            name
            for name in PROCESSES
            if name not in self.crashed and self.ledgers[name].record(CID).state is Ownership.OWNED
        ]
        assert owners == ([self.awake] if self.awake else [])

    def fingerprint(self) -> str:
        return repr(
            (
                [
                    (
                        *(side.process, side.machine.state, side.machine._link, side.outcomes),
                        *(side.baton, side.asked, side.sealing, side.rebuilding),
                        *(side.wants_link, side.told_of_death),
                        getattr(side.machine, "_let_go", None),
                        getattr(side.machine, "_no_owner_lives", None),
                        len(getattr(side.machine, "_strays", ())),
                    )
                    for side in self.sides
                ],
                [
                    (
                        link.ends,
                        [
                            [type(m).__name__ + str(m.handoff_id) for m in inbox]
                            for inbox in link.inboxes.values()
                        ],
                        link.cut,
                        sorted(link.unread_ends),
                    )
                    for link in self.links
                ],
                (self.entry, self.ghosts, sorted(self.crashed)),
                (self.awake, self.was_closed, self.resets, self.terms),
                [ledger.record(CID).state for ledger in self.ledgers.values()],
                self.budget,
            )
        )


def _incarnation(process: str) -> bytes:
    return process.encode() * 16
