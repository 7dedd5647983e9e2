"""Giving and taking by a shared store, and the promises of single cells."""

import msgspec
import pytest

from quicbaton.handoff import (
    CuttingOverState,
    ForwardingState,
    GivingState,
    Outcome,
    TakingByLedger,
    TakingState,
)
from quicbaton.handoff.effects import (
    AnswerWithResets,
    Connect,
    DestroyKeys,
    Discard,
    Resume,
    Send,
    ThawConnection,
)
from quicbaton.handoff.events import Cancel, DeadlinePassed, Event, LinkLost, LinkUp, PeerDead
from quicbaton.handoff.messages import (
    Abort,
    Baton,
    ClaimRequest,
    Moved,
    Offer,
    PeerError,
    Refuse,
    Taken,
)
from quicbaton.handoff.store_questions import (
    STORE_MAX_RETRY_S,
    STORE_RETRY_S,
    AskStore,
    ReadStore,
    StoreConflict,
    StoreDone,
    StoreFound,
)
from quicbaton.limits import HANDOFF_DOUBT_S
from quicbaton.ownership import Ledger, Ownership
from quicbaton.ownership.store import Close, Publish, Take
from quicbaton.reasons import Reason
from tests.handoff.machine_cells import (
    ARRIVED,
    BATON_ID,
    CID,
    CLAIM,
    COMMITTED,
    DESTINATION,
    DIGEST,
    ENDED,
    FAILED,
    HANDOFF,
    LINK,
    NEW_LINK,
    OFFER,
    OFFERED,
    OURS,
    READY,
    REBUILT,
    SEALED,
    SECOND_US,
    SHARED_OFFER,
    SOURCE,
    START,
    STORE,
    STRAY,
    TAKEN,
    THEIRS,
    UNKNOWN,
    cutting_over_in,
    forwarding_in,
    giving_by_store_in,
    kinds,
    outcomes,
    received,
    sent,
    successor,
    taking_by_store_in,
)

PUBLISH = Publish(CID, 1, SOURCE, BATON_ID, DIGEST)
TAKE = Take(CID, 1, "S", BATON_ID, DIGEST, DESTINATION)
TAKE_BACK = Take(CID, 1, "S", BATON_ID, DIGEST, SOURCE)
ABORT = received(Abort(CID, HANDOFF, Reason.DISCARDED, "no"))


# --- the source -----------------------------------------------------------------------------------


def test_baton_leaves_when_the_offer_stands_in_the_store() -> None:
    machine, _ = giving_by_store_in(GivingState.SEALING)
    assert machine.handle(SEALED, 0) == [AskStore(PUBLISH)]
    assert machine.handle(StoreDone(OFFERED), 0) == [Send(LINK, Baton(CID, HANDOFF, b"sealed"))]


def test_offer_names_the_store() -> None:
    machine, _ = giving_by_store_in(GivingState.IDLE)
    (offer,) = sent(machine.handle(START, 0))
    assert isinstance(offer, Offer)
    assert offer.store_id == STORE


def test_store_that_fails_before_the_baton_is_out_costs_nothing() -> None:
    machine, ledger = giving_by_store_in(GivingState.PUBLISHING)
    effects = machine.handle(FAILED, 0)
    assert outcomes(effects) == [(Outcome.KEPT, "store_full")]
    assert ThawConnection in kinds(effects)
    assert ledger.record(CID).state is Ownership.OWNED


def test_offer_with_an_unknown_outcome_is_looked_up() -> None:
    machine, _ = giving_by_store_in(GivingState.PUBLISHING)
    assert machine.handle(UNKNOWN, 0) == [ReadStore(CID, STORE_RETRY_S)]
    # It has not got there, or not yet.
    assert machine.handle(StoreFound(None), 0) == [AskStore(PUBLISH, 2 * STORE_RETRY_S)]
    assert machine.handle(UNKNOWN, 0) == [ReadStore(CID, 4 * STORE_RETRY_S)]
    assert kinds(machine.handle(StoreFound(OFFERED), 0)) == [Send]
    assert machine.state is GivingState.FROZEN


def test_pauses_between_questions_grow_to_a_limit() -> None:
    machine, _ = giving_by_store_in(GivingState.RECLAIMING)
    pauses = []
    for _ in range(8):
        (effect,) = machine.handle(FAILED, 0)
        assert isinstance(effect, AskStore)
        pauses.append(effect.after_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] == STORE_MAX_RETRY_S


def test_source_that_was_fenced_off_is_silent_for_good() -> None:
    machine, ledger = giving_by_store_in(GivingState.PUBLISHING)
    effects = machine.handle(StoreConflict(THEIRS), 0)
    assert outcomes(effects) == [(Outcome.IN_DOUBT, "fenced")]
    assert DestroyKeys in kinds(effects)
    assert ThawConnection not in kinds(effects)
    assert AnswerWithResets not in kinds(effects)
    assert ledger.record(CID).state is Ownership.GIVEN


@pytest.mark.parametrize(
    "state", [GivingState.PUBLISHING, GivingState.FROZEN, GivingState.RECLAIMING]
)
def test_neither_ready_nor_claim_request_gives_anything(state: GivingState) -> None:
    machine, ledger = giving_by_store_in(state)
    (answer,) = sent(machine.handle(received(CLAIM, NEW_LINK), 0))
    assert isinstance(answer, Refuse)
    assert answer.code == "shared_store"
    with pytest.raises(PeerError):
        machine.handle(received(READY), 0)
    assert machine.state is state
    assert ledger.record(CID).state is Ownership.SEALED


def test_taken_destroys_the_keys_and_forwards() -> None:
    machine, ledger = giving_by_store_in(GivingState.FROZEN)
    effects = machine.handle(received(TAKEN), 0)
    assert effects[0] == DestroyKeys(CID)
    assert outcomes(effects) == [(Outcome.GIVEN, "ok")]
    record = ledger.record(CID)
    assert (record.state, record.term) == (Ownership.GIVEN, 2)
    assert sent(successor(machine).handle(ARRIVED, 0)) == [STRAY]


def test_taken_in_another_term_is_a_peer_error() -> None:
    machine, _ = giving_by_store_in(GivingState.FROZEN)
    with pytest.raises(PeerError) as caught:
        machine.handle(received(Taken(CID, HANDOFF, 3)), 0)
    assert caught.value.code == "wrong_term"


@pytest.mark.parametrize(
    "event",
    [ABORT, LinkLost(LINK), PeerDead(False), DeadlinePassed(), Cancel(Reason.TAKEOVER, "no")],
)
def test_nothing_but_the_store_brings_a_connection_back(event: Event) -> None:
    machine, ledger = giving_by_store_in(GivingState.FROZEN)
    assert machine.handle(event, 0) == [AskStore(TAKE_BACK)]
    assert ledger.record(CID).state is Ownership.SEALED
    machine.handle(ARRIVED, 0)
    effects = machine.handle(StoreDone(OURS), 0)
    assert ThawConnection(CID, 2, (STRAY,)) in effects
    assert [outcome for outcome, _ in outcomes(effects)] == [Outcome.KEPT]


def test_unknown_outcome_of_taking_back_is_read_until_it_is_known() -> None:
    machine, _ = giving_by_store_in(GivingState.RECLAIMING)
    assert kinds(machine.handle(UNKNOWN, 0)) == [ReadStore]
    assert kinds(machine.handle(StoreFound(OFFERED), 0)) == [AskStore]
    assert kinds(machine.handle(UNKNOWN, 0)) == [ReadStore]
    assert ThawConnection in kinds(machine.handle(StoreFound(OURS), 0))


def test_connection_that_the_destination_has_taken_is_given() -> None:
    machine, _ = giving_by_store_in(GivingState.RECLAIMING)
    machine.handle(LinkLost(LINK), 0)
    machine.handle(ARRIVED, 0)
    effects = machine.handle(StoreConflict(THEIRS), 0)
    assert kinds(effects)[0] is DestroyKeys
    assert outcomes(effects) == [(Outcome.GIVEN, "ok")]
    # Its owner calls.
    assert successor(machine).handle(received(TAKEN, NEW_LINK), 0) == [Send(NEW_LINK, STRAY)]


@pytest.mark.parametrize("known_by", [ABORT, PeerDead(True)])
@pytest.mark.parametrize("answer", [StoreConflict(THEIRS), StoreConflict(None), DeadlinePassed()])
def test_client_is_told_when_nobody_will_have_the_connection(
    known_by: Event, answer: Event
) -> None:
    machine, ledger = giving_by_store_in(GivingState.RECLAIMING)
    machine.handle(known_by, 0)
    effects = machine.handle(answer, 0)
    assert AnswerWithResets in kinds(effects)
    assert ledger.record(CID).state is Ownership.CLOSED


def test_closed_entry_is_nobody_s() -> None:
    machine, _ = giving_by_store_in(GivingState.RECLAIMING)
    assert AnswerWithResets in kinds(machine.handle(StoreConflict(ENDED), 0))


@pytest.mark.parametrize("event", [StoreConflict(None), DeadlinePassed()])
def test_in_doubt_the_source_is_silent_and_forwards_if_the_owner_calls(event: Event) -> None:
    machine, ledger = giving_by_store_in(GivingState.RECLAIMING)
    machine.handle(ARRIVED, 0)
    effects = machine.handle(event, 0)
    assert outcomes(effects) == [(Outcome.IN_DOUBT, "in_doubt")]
    assert AnswerWithResets not in kinds(effects)
    assert ledger.record(CID).state is Ownership.GIVEN
    assert successor(machine).handle(received(TAKEN, NEW_LINK), 0) == [Send(NEW_LINK, STRAY)]


def test_store_s_late_word_that_nobody_else_has_it_is_told_to_the_client() -> None:
    machine, ledger = giving_by_store_in(GivingState.RECLAIMING)
    machine.handle(DeadlinePassed(), 0)
    effects = successor(machine).handle(StoreDone(OURS), 0)
    assert AnswerWithResets in kinds(effects)
    assert AskStore(Close(CID, 2, SOURCE)) in effects
    assert ThawConnection not in kinds(effects)
    assert ledger.record(CID).state is Ownership.CLOSED


def test_owner_whose_taken_was_lost_and_that_has_handed_on_is_believed() -> None:
    machine, ledger = giving_by_store_in(GivingState.RECLAIMING)
    effects = machine.handle(received(Moved(CID, HANDOFF, "E"), NEW_LINK), 0)
    assert kinds(effects)[0] is DestroyKeys
    assert successor(machine).state is ForwardingState.FORWARDING
    assert ledger.record(CID).state is Ownership.GIVEN


def test_doubt_has_an_end() -> None:
    machine, _ = giving_by_store_in(GivingState.RECLAIMING)
    assert machine.get_timer() == HANDOFF_DOUBT_S * SECOND_US
    other, _ = taking_by_store_in(TakingState.COMMITTING)
    assert other.get_timer() == HANDOFF_DOUBT_S * SECOND_US


# --- the destination ------------------------------------------------------------------------------


def test_destination_commits_in_the_store_and_resumes_at_once() -> None:
    machine, ledger = taking_by_store_in(TakingState.REBUILDING)
    assert machine.handle(REBUILT, 0) == [AskStore(TAKE)]
    effects = machine.handle(StoreDone(THEIRS), 7)
    assert kinds(effects)[:2] == [Resume, Send]
    assert sent(effects) == [TAKEN]
    record = ledger.record(CID)
    assert (record.state, record.term) == (Ownership.OWNED, 2)


def test_committed_gives_nothing_where_the_store_decides() -> None:
    machine, ledger = taking_by_store_in(TakingState.COMMITTING)
    with pytest.raises(PeerError):
        machine.handle(received(COMMITTED), 0)
    assert ledger.record(CID).state is Ownership.ABSENT


@pytest.mark.parametrize("event", [LinkLost(LINK), PeerDead(False)])
def test_destination_needs_its_source_no_more(event: Event) -> None:
    machine, _ = taking_by_store_in(TakingState.COMMITTING)
    machine.handle(event, 0)
    effects = machine.handle(StoreDone(THEIRS), 0)
    assert Resume in kinds(effects)


def test_owner_without_a_link_looks_for_one_and_says_taken_over_it() -> None:
    machine, _ = taking_by_store_in(TakingState.COMMITTING)
    machine.handle(LinkLost(LINK), 0)
    assert Connect(CID) in machine.handle(StoreDone(THEIRS), 0)
    assert successor(machine).handle(LinkUp(NEW_LINK), 0) == [Send(NEW_LINK, TAKEN)]


def test_conflict_discards_and_says_so() -> None:
    machine, ledger = taking_by_store_in(TakingState.COMMITTING)
    effects = machine.handle(StoreConflict(OURS), 0)
    assert kinds(effects)[0] is Discard
    assert isinstance(sent(effects)[0], Abort)
    assert outcomes(effects) == [(Outcome.DISCARDED, "superseded")]
    assert ledger.record(CID).state is Ownership.ABSENT


def test_take_that_is_done_after_the_discard_is_undone() -> None:
    machine, _ = taking_by_store_in(TakingState.COMMITTING)
    machine.handle(UNKNOWN, 0)
    assert outcomes(machine.handle(DeadlinePassed(), 0)) == [(Outcome.DISCARDED, "in_doubt")]
    close = Close(CID, 2, DESTINATION)
    assert machine.handle(StoreFound(THEIRS), 0) == [
        Send(LINK, Abort(CID, HANDOFF, "discarded", "the destination has let it go before")),
        AskStore(close),
    ]
    # The answer to that.
    assert machine.handle(StoreDone(ENDED), 0) == []


def test_connection_that_this_process_holds_already_is_not_taken_twice() -> None:
    machine, ledger = taking_by_store_in(TakingState.COMMITTING)
    ledger.own(CID, 9)
    effects = machine.handle(StoreDone(THEIRS), 0)
    assert Resume not in kinds(effects)
    assert effects[-1] == AskStore(Close(CID, 2, DESTINATION))


@pytest.mark.parametrize("store_id", [b"another", b""])
def test_offer_by_another_store_is_refused(store_id: bytes) -> None:
    machine, _ = taking_by_store_in(TakingState.IDLE)
    offer = msgspec.structs.replace(SHARED_OFFER, store_id=store_id)
    (answer,) = sent(machine.handle(received(offer), 0))
    assert isinstance(answer, Refuse)
    assert answer.code == "no_store"


def test_offer_by_a_store_is_refused_by_a_process_that_has_none() -> None:
    machine = TakingByLedger(CID, HANDOFF, Ledger(), name="D", formats=frozenset([1]))
    (answer,) = sent(machine.handle(received(SHARED_OFFER), 0))
    assert isinstance(answer, Refuse)
    assert answer.code == "no_store"


def test_offer_of_a_connection_that_is_not_settled_here_is_refused() -> None:
    ledger = Ledger()
    ledger.own(CID)
    ledger.freeze(CID, b"h" * 16)
    machine = TakingByLedger(CID, HANDOFF, ledger, name="D", formats=frozenset([1]))
    (answer,) = sent(machine.handle(received(OFFER), 0))
    assert isinstance(answer, Refuse)
    assert answer.code == "in_hand"


def test_proxied_owner_is_closed_when_its_source_sends_no_more() -> None:
    machine, _ = cutting_over_in(CuttingOverState.CUT_OFF, by_store=True)
    assert Send(NEW_LINK, TAKEN) in machine.handle(LinkUp(NEW_LINK), 0)
    source, _ = forwarding_in(ForwardingState.DONE, by_store=True)
    (refusal,) = sent(source.handle(received(TAKEN), 0))
    assert isinstance(refusal, Refuse)
    machine.handle(received(refusal, NEW_LINK), 0)
    assert machine.state is CuttingOverState.DONE


def test_claim_request_of_another_handoff_is_refused() -> None:
    machine, _ = forwarding_in(ForwardingState.FORWARDING, by_store=True)
    request = ClaimRequest(CID, b"o" * 16, BATON_ID, DIGEST)
    (answer,) = sent(machine.handle(received(request, NEW_LINK), 0))
    assert isinstance(answer, Refuse)
