"""A small world in which handoffs happen: three processes, lossy links, crashes, a checker.

The world performs the machines' effects on make-believe connections and watches from outside:

* a snapshot is activated (thawed or resumed) at most once: two activations of one snapshot would
  protect two packets with one nonce;
* at most one living process has the connection awake;
* COMMITTED is sent only when the source's keys are gone and its ledger says GIVEN;
* no process answers with resets while an owner lives or may still come.
"""

from collections import deque
from dataclasses import dataclass, field

from quicbaton.handoff import (
    CuttingOver,
    CuttingOverState,
    Forwarding,
    GivingByLedger,
    Outcome,
    TakingByLedger,
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
    Resume,
    SealBaton,
    Send,
    StopForwarding,
    ThawConnection,
    WriteBaton,
)
from quicbaton.handoff.events import (
    Cancel,
    ConnectionClosed,
    CutoverSeen,
    DeadlinePassed,
    Event,
    LinkLost,
    LinkUp,
    PeerDead,
    RebuildFailed,
    Rebuilt,
    Received,
    Save,
    Sealed,
    SealFailed,
    Start,
    StrayArrived,
)
from quicbaton.handoff.messages import ClaimRequest, Committed, HandoffMessage, Message, Offer
from quicbaton.ownership import Ledger, Ownership
from quicbaton.reasons import Reason
from tests.handoff.small_world import CID, DIGEST, Action, SmallWorld, baton_id


@dataclass
class Link:
    destination: str
    to_source: deque[Message] = field(default_factory=deque)
    to_destination: deque[Message] = field(default_factory=deque)
    cut: bool = False
    #: Ends that have yet to read the end of the stream.
    unread_ends: set[str] = field(default_factory=lambda: {"S", "D"})


@dataclass
class Taker:
    """A destination's machine, the one that goes on, and its runtime's notes."""

    process: str
    machine: TakingByLedger | CuttingOver
    baton: int | None = None  # number of the snapshot it rebuilt
    rebuilding: bool = False
    wants_link: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    told_of_death: bool = False


@dataclass
class Budget:
    """How often each misfortune may happen; what is not listed may happen whenever it can."""

    starts: int = 0
    saves: int = 0
    resumes: int = 0
    cuts: int = 0
    crashes: int = 0
    cancels: int = 0
    failures: int = 0
    strays: int = 0
    timers: int = 0


class World(SmallWorld):
    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self.awake = "S"
        self.ledgers = {name: Ledger() for name in ("S", "D1", "D2")}
        self.ledgers["S"].own(CID)
        self.source: GivingByLedger | Forwarding | None = None
        self.source_outcomes: list[list[Outcome]] = []
        self.source_told_of_death = False
        self.takers: list[Taker] = []
        self.links: list[Link] = []
        self.snapshot: int | None = None
        self.keys = True
        self.sealing = False
        self.file: int | None = None
        self.delivered_asleep = 0

    # --- what may happen --------------------------------------------------------------------

    def progress(self) -> list[Action]:
        found: list[Action] = []
        if self.sealing and "S" not in self.crashed:
            found.append(("seal", 1))
        for number, link in enumerate(self.links):
            if link.to_source and "S" not in self.crashed:
                found.append(("deliver", number, "S"))
            if link.to_destination and link.destination not in self.crashed:
                found.append(("deliver", number, "D"))
            if link.cut:
                if "S" in link.unread_ends and not link.to_source and "S" not in self.crashed:
                    found.append(("eof", number, "S"))
                destination_lives = link.destination not in self.crashed
                if "D" in link.unread_ends and not link.to_destination and destination_lives:
                    found.append(("eof", number, "D"))
        for number, taker in self._living_takers():
            if taker.rebuilding:
                found.append(("rebuild", number, 1))
            if taker.wants_link and "S" not in self.crashed:
                found.append(("connect", number))
        return found

    def misfortunes(self) -> list[Action]:
        return [
            *self._operators_wishes(),
            *self._breakdowns(),
            *self._blows_to_the_source(),
            *self._blows_to_the_takers(),
        ]

    def _operators_wishes(self) -> list[Action]:
        found: list[Action] = []
        if self.awake == "S" and (self.source is None or self.source.ended):
            if self.budget.starts:
                found += [("start", "D1"), ("start", "D2")]
            if self.budget.saves:
                found.append(("save",))
        if self.file is not None and self.budget.resumes:
            found += [("resume", name) for name in ("D1", "D2") if name not in self.crashed]
        return found

    def _breakdowns(self) -> list[Action]:
        found: list[Action] = []
        if self.budget.cuts:
            for number, link in enumerate(self.links):
                if not link.cut:
                    found += [("cut", number, kept) for kept in ("", "S", "D")]
        if self.budget.crashes:
            found += [("crash", name) for name in ("S", "D1", "D2") if name not in self.crashed]
        if self.budget.failures:
            if self.sealing and "S" not in self.crashed:
                found.append(("seal", 0))
            found += [("rebuild", n, 0) for n, taker in self._living_takers() if taker.rebuilding]
        return found

    def _blows_to_the_source(self) -> list[Action]:
        found: list[Action] = []
        if self.source is None or self.source.ended or "S" in self.crashed:
            return found
        if self.budget.cancels:
            found.append(("cancel", -1))
        if self.budget.timers and self.source.get_timer() is not None:
            found.append(("timer", -1))
        if self.budget.strays and self._routed_to_source_machine():
            found.append(("stray",))
        if self._given_to_the_dead() and not self.source_told_of_death:
            found.append(("peer_dead", -1))
        return found

    def _blows_to_the_takers(self) -> list[Action]:
        found: list[Action] = []
        for number, taker in self._living_takers():
            if taker.machine.state is CuttingOverState.FORWARDED:
                found += [("cutover", number), ("close", number)]
            if taker.machine.ended:
                continue
            if self.budget.cancels and taker.machine.state is not TakingState.IDLE:
                found.append(("cancel", number))
            if self.budget.timers and taker.machine.get_timer() is not None:
                found.append(("timer", number))
            if "S" in self.crashed and not taker.told_of_death:
                found.append(("peer_dead", number))
        return found

    def _living_takers(self) -> list[tuple[int, Taker]]:
        return [(n, t) for n, t in enumerate(self.takers) if t.process not in self.crashed]

    def _routed_to_source_machine(self) -> bool:
        assert self.source is not None
        return self.source.state.value in ("sealing", "frozen", "saved", "forwarding")

    def _given_to_the_dead(self) -> bool:
        """The source's peer has provably exited."""
        assert self.source is not None
        number = self.source._link
        return number is not None and self.links[number].destination in self.crashed

    # --- what happens -----------------------------------------------------------------------

    def _do_start(self, destination: str) -> None:
        self._spend("starts")
        self.links.append(Link(destination))
        number = len(self.links) - 1
        if destination in self.crashed:
            self.links[number].cut = True
        self._new_source()
        self._tell_source(Start(number, "S", "", 100, 1, cutover_pending=False))

    def _do_save(self) -> None:
        self._spend("saves")
        self._new_source()
        self._tell_source(Save(cutover_pending=False))

    def _new_source(self) -> None:
        handoff_id = bytes([0x50 + len(self.source_outcomes)]) * 16
        self.source = GivingByLedger(CID, handoff_id, self.ledgers["S"])
        self.source_outcomes.append([])
        self.source_told_of_death = False

    def _do_seal(self, works: int) -> None:
        self.sealing = False
        if not works:
            self._spend("failures")
            self._tell_source(SealFailed(Reason.NOT_EXPORTABLE, "a coroutine is in the way"))
            return
        number = len(self.terms) - 1
        self._tell_source(Sealed(baton_id(number), DIGEST, sealed(number)))

    def _do_resume(self, process: str) -> None:
        self._spend("resumes")
        assert self.file is not None
        handoff_id = bytes([0xA0 + len(self.takers)]) * 16
        machine = TakingByLedger(CID, handoff_id, self.ledgers[process])
        self.takers.append(Taker(process, machine, baton=self.file))
        self._tell_taker(len(self.takers) - 1, self._rebuilt(self.file))

    def _do_rebuild(self, number: int, works: int) -> None:
        taker = self.takers[number]
        taker.rebuilding = False
        if not works:
            self._spend("failures")
            self._tell_taker(number, RebuildFailed(Reason.BATON_SEAL, "no such key"))
            return
        assert taker.baton is not None
        self._tell_taker(number, self._rebuilt(taker.baton))

    def _rebuilt(self, baton: int) -> Rebuilt:
        return Rebuilt(CID, self.terms[baton], baton_id(baton), DIGEST)

    def _do_connect(self, number: int) -> None:
        taker = self.takers[number]
        taker.wants_link = False
        self.links.append(Link(taker.process))
        self._tell_taker(number, LinkUp(len(self.links) - 1))

    def _do_deliver(self, number: int, end: str) -> None:
        link = self.links[number]
        if end == "S":
            self._source_reads(number, link.to_source.popleft())
        else:
            self._destination_reads(number, link.to_destination.popleft())

    def _source_reads(self, number: int, message: Message) -> None:
        if self.source is None:
            self._run_source(answer_stale(self.ledgers["S"], number, message))
        else:
            self._tell_source(Received(number, message))

    def _destination_reads(self, number: int, message: Message) -> None:
        process = self.links[number].destination
        assert isinstance(message, HandoffMessage)
        for index, taker in enumerate(self.takers):
            if taker.process == process and taker.machine.handoff_id == message.handoff_id:
                self._tell_taker(index, Received(number, message))
                return
        assert isinstance(message, Offer), message
        machine = TakingByLedger(
            CID, message.handoff_id, self.ledgers[process], formats=frozenset([1])
        )
        self.takers.append(Taker(process, machine))
        self._tell_taker(len(self.takers) - 1, Received(number, message))

    def _do_cut(self, number: int, kept: str) -> None:
        self._spend("cuts")
        self._cut(self.links[number], kept)

    def _cut(self, link: Link, kept: str) -> None:
        """Break a link; what was under way to `kept` may still be read there."""
        link.cut = True
        if kept != "S":
            link.to_source.clear()
        if kept != "D":
            link.to_destination.clear()

    def _do_eof(self, number: int, end: str) -> None:
        self.links[number].unread_ends.discard(end)
        if end == "S":
            if self.source is not None:
                self._tell_source(LinkLost(number))
            return
        for index, taker in self._living_takers():
            if taker.process == self.links[number].destination:
                self._tell_taker(index, LinkLost(number))

    def _do_crash(self, process: str) -> None:
        self._spend("crashes")
        self.crashed.add(process)
        if self.awake == process:
            self.awake = None
            self.was_closed = True
        for link in self.links:
            if process == "S":
                self._cut(link, "D")
            elif link.destination == process:
                self._cut(link, "S")
        if process == "S":
            self.sealing = False

    def _do_peer_dead(self, number: int) -> None:
        if number < 0:
            self.source_told_of_death = True
            self._tell_source(PeerDead(no_owner_lives=self.awake is None))
            return
        self.takers[number].told_of_death = True
        self._tell_taker(number, PeerDead(no_owner_lives=self._nobody_else_can_own(number)))

    def _nobody_else_can_own(self, number: int) -> bool:
        """A supervisor's verdict after asking all living processes."""
        return self.awake is None and all(
            other.machine.ended for index, other in self._living_takers() if index != number
        )

    def _do_cancel(self, number: int) -> None:
        self._spend("cancels")
        event = Cancel(Reason.TAKEOVER, "changed my mind")
        if number < 0:
            self._tell_source(event)
        else:
            self._tell_taker(number, event)

    def _do_timer(self, number: int) -> None:
        self._spend("timers")
        machine = self.source if number < 0 else self.takers[number].machine
        assert machine is not None
        timer = machine.get_timer()
        assert timer is not None
        assert machine.handle_timer(timer - 1) == []
        self.now_us = max(self.now_us, timer)
        event = DeadlinePassed()
        if number < 0:
            self._tell_source(event)
        else:
            self._tell_taker(number, event)

    def _do_stray(self) -> None:
        self._spend("strays")
        self._tell_source(StrayArrived(b"datagram", ("::1", 1), (), 0, self.now_us))

    def _do_cutover(self, number: int) -> None:
        self._tell_taker(number, CutoverSeen())

    def _do_close(self, number: int) -> None:
        assert self.awake == self.takers[number].process
        self.awake = None
        self.was_closed = True
        self.ledgers[self.takers[number].process].close(CID, self.now_us)
        self._tell_taker(number, ConnectionClosed())

    # --- the runtimes -----------------------------------------------------------------------

    def _tell_source(self, event: Event) -> None:
        assert self.source is not None
        effects = self.source.handle(event, self.now_us)
        self.source = self.source.successor or self.source
        self._run_source(effects)

    def _tell_taker(self, number: int, event: Event) -> None:
        taker = self.takers[number]
        effects = taker.machine.handle(event, self.now_us)
        taker.machine = taker.machine.successor or taker.machine
        self._run_taker(number, effects)

    def _run_source(self, effects: list[Effect]) -> None:  # noqa: PLR0912 - a case per effect
        for effect in effects:
            match effect:
                case Send(link=link, message=message):
                    if isinstance(message, Committed):
                        assert not self.keys
                        assert self.ledgers["S"].record(CID).state is Ownership.GIVEN
                    if not self.links[link].cut:
                        self.links[link].to_destination.append(message)
                case FreezeConnection():
                    assert self.awake == "S"
                    self.awake = None
                case SealBaton(term=term):
                    self.terms.append(term)
                    self.snapshot = len(self.terms) - 1
                    self.sealing = True
                case WriteBaton(sealed=text):
                    self.file = unsealed(text)
                case ThawConnection(term=term):
                    assert self.snapshot is not None
                    assert term == self.terms[self.snapshot] + 1
                    self._check_ledger("S", term)
                    self._activate("S", self.snapshot)
                    self.sealing = False
                case DestroyKeys():
                    self.keys = False
                    self.snapshot = None
                case AnswerWithResets():
                    self._reset()
                case Report(outcome=outcome):
                    self.source_outcomes[-1].append(outcome)
                case StopForwarding():
                    pass
                case _:
                    raise AssertionError(effect)

    def _run_taker(  # noqa: PLR0912 - a case per effect
        self, number: int, effects: list[Effect]
    ) -> None:
        taker = self.takers[number]
        for effect in effects:
            match effect:
                case Send(link=link, message=message):
                    assert taker.process not in self.crashed
                    if isinstance(message, ClaimRequest):
                        assert taker.baton is not None
                    if not self.links[link].cut:
                        self.links[link].to_source.append(message)
                case Rebuild(sealed=text):
                    taker.baton = unsealed(text)
                    taker.rebuilding = True
                case Connect():
                    taker.wants_link = True
                case Resume(claim=claim):
                    assert taker.baton is not None
                    claim.check(
                        connection_id=CID,
                        baton_term=self.terms[taker.baton],
                        baton_id=baton_id(taker.baton),
                        digest=DIGEST,
                    )
                    self._check_ledger(taker.process, claim.term)
                    self._activate(taker.process, taker.baton)
                case Deliver():
                    assert self.awake == taker.process or self.was_closed
                case Discard():
                    assert Outcome.RESUMED not in taker.outcomes
                    taker.rebuilding = False
                case AnswerWithResets():
                    self._reset()
                case Report(outcome=outcome):
                    taker.outcomes.append(outcome)
                case _:
                    raise AssertionError(effect)
        if taker.machine.ended:
            taker.wants_link = False

    # --- the checker ------------------------------------------------------------------------

    def _activate(self, process: str, baton: int) -> None:
        assert baton not in self.activated, f"snapshot {baton} activated twice, now by {process}"
        assert self.awake is None, f"{process} woke while {self.awake} was awake"
        assert not self.resets, "an owner woke after its client was told that there is none"
        self.activated.add(baton)
        self.awake = process

    def _check_ledger(self, process: str, term: int) -> None:
        """Who wakes has its right to do so on record, from before it wakes."""
        record = self.ledgers[process].record(CID)
        assert (record.state, record.term) == (Ownership.OWNED, term)

    def settle(self) -> None:
        for link in self.links:
            if link.destination in self.crashed or "S" in self.crashed:
                link.cut = True
        super().settle()

    def _timers(self) -> list[tuple[int, int]]:
        machines = [(n, taker.machine) for n, taker in self._living_takers()]
        found = [(m.get_timer(), n) for n, m in machines]
        if self.source is not None and "S" not in self.crashed:
            found.append((self.source.get_timer(), -1))
        return [(timer, number) for timer, number in found if timer is not None]

    def _check_the_end(self) -> None:
        for _, taker in self._living_takers():
            assert taker.machine.ended, taker.machine
            assert taker.outcomes in ([Outcome.RESUMED], [Outcome.DISCARDED]), taker.outcomes
        if "S" in self.crashed:
            return
        for outcomes in self.source_outcomes:
            assert outcomes in (
                [Outcome.KEPT],
                [Outcome.GIVEN],
                [Outcome.GIVEN, Outcome.LOST],
            ), outcomes
        given = any(Outcome.GIVEN in outcomes for outcomes in self.source_outcomes)
        resumed = [t.process for t in self.takers if Outcome.RESUMED in t.outcomes]
        if not given:
            assert self.awake == "S"
            assert resumed == []
        elif self.awake is None and not self.was_closed:
            # Given, but the destination had let it go, or died before it could resume.
            assert resumed == []
        assert len(resumed) <= 1

    def fingerprint(self) -> str:
        source = self.source
        return repr(
            (
                source and (source.state, source._link, source._handoff_id, len(source._strays)),
                self.source_outcomes,
                [
                    (
                        t.process,
                        t.machine.state,
                        t.machine._link,
                        getattr(t.machine, "_no_owner_lives", None),
                        len(getattr(t.machine, "_strays", ())),
                        (t.baton, t.rebuilding, t.wants_link, t.outcomes, t.told_of_death),
                    )
                    for t in self.takers
                ],
                [
                    (
                        link.destination,
                        [type(m).__name__ + str(m.handoff_id) for m in link.to_source],
                        [type(m).__name__ + str(m.handoff_id) for m in link.to_destination],
                        link.cut,
                        sorted(link.unread_ends),
                    )
                    for link in self.links
                ],
                sorted(self.crashed),
                (self.awake, self.was_closed, self.resets, self.keys, self.sealing),
                (self.terms, self.snapshot, self.file, self.source_told_of_death),
                [ledger.record(CID).state for ledger in self.ledgers.values()],
                self.budget,
            )
        )


def sealed(number: int) -> bytes:
    return b"sealed %d" % number


def unsealed(text: bytes) -> int:
    return int(text.split()[1])
