"""Giving and taking by the ledger, and the promises of single cells."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from quicbaton.handoff import (
    CuttingOverState,
    ForwardingState,
    Giving,
    GivingByLedger,
    GivingState,
    Outcome,
    Taking,
    TakingByLedger,
    TakingState,
    Waits,
    answer_stale,
)
from quicbaton.handoff.effects import (
    Connect,
    Deliver,
    DestroyKeys,
    Discard,
    FreezeConnection,
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
    Event,
    LinkLost,
    LinkUp,
    PeerDead,
    Save,
    Sealed,
)
from quicbaton.handoff.machine import Machine
from quicbaton.handoff.messages import Abort, Baton, Committed, Cutover, PeerError, Refuse
from quicbaton.limits import (
    HANDOFF_FORWARD_S,
    HANDOFF_FROZEN_S,
    HANDOFF_OFFER_S,
    MAX_BATON_BYTES,
    MAX_QUEUED_STRAYS,
)
from quicbaton.ownership import Ledger, Ownership
from quicbaton.ownership.store import ConfigurationError
from quicbaton.reasons import Reason
from tests.handoff.machine_cells import (
    ACCEPT,
    ARRIVED,
    BATON_ID,
    CID,
    CLAIM,
    COMMITTED,
    DIGEST,
    FORWARDING,
    GIVING_BY_LEDGER,
    HANDOFF,
    LINK,
    NEW_LINK,
    OFFER,
    OTHER,
    READY,
    REBUILT,
    SEALED,
    SECOND_US,
    START,
    STRAY,
    cutting_over_in,
    forwarding_in,
    giving_in,
    outcomes,
    received,
    sent,
    successor,
    taking_in,
)

# --- the source -----------------------------------------------------------------------------------


def test_keys_are_destroyed_between_the_commit_and_its_announcement() -> None:
    machine, ledger = giving_in(GivingState.FROZEN)
    effects = machine.handle(received(READY), 0)
    assert effects[:2] == [DestroyKeys(CID), Send(LINK, COMMITTED)]
    assert ledger.record(CID).state is Ownership.GIVEN


@pytest.mark.parametrize(
    "start", [msgspec.structs.replace(START, cutover_pending=True), Save(True)]
)
def test_connection_whose_cutover_is_open_is_refused(start: Event) -> None:
    machine, ledger = giving_in(GivingState.IDLE)
    assert outcomes(machine.handle(start, 0)) == [(Outcome.KEPT, "cutover_pending")]
    assert ledger.record(CID).state is Ownership.OWNED
    assert ledger.record(CID).term == 1


@pytest.mark.parametrize("start", [START, Save(False)])
def test_connection_that_is_not_ours_is_refused(start: Event) -> None:
    machine = GivingByLedger(CID, HANDOFF, Ledger())
    assert outcomes(machine.handle(start, 0)) == [(Outcome.KEPT, "not_owned")]


def test_connection_saved_while_it_was_offered_is_not_frozen_twice() -> None:
    machine, ledger = giving_in(GivingState.OFFERED)
    ledger.freeze(CID, b"")
    effects = machine.handle(received(ACCEPT), 0)
    assert outcomes(effects) == [(Outcome.KEPT, "not_owned")]
    assert isinstance(sent(effects)[0], Abort)
    assert not any(isinstance(effect, (FreezeConnection, ThawConnection)) for effect in effects)


def test_thaw_gives_back_what_arrived_while_frozen() -> None:
    machine, _ = giving_in(GivingState.FROZEN)
    assert sent(machine.handle(ARRIVED, 0)) == [STRAY]
    effects = machine.handle(LinkLost(LINK), 0)
    assert ThawConnection(CID, 2, (STRAY,)) in effects


def test_baton_beyond_the_limit_keeps_the_connection() -> None:
    machine, _ = giving_in(GivingState.SEALING)
    effects = machine.handle(Sealed(BATON_ID, DIGEST, bytes(MAX_BATON_BYTES + 1)), 0)
    assert outcomes(effects) == [(Outcome.KEPT, "baton_too_large")]
    assert isinstance(sent(effects)[0], Abort)


def test_destination_that_rebuilt_another_state_gets_nothing() -> None:
    machine, ledger = giving_in(GivingState.FROZEN)
    effects = machine.handle(received(msgspec.structs.replace(READY, digest=b"x" * 32)), 0)
    assert outcomes(effects) == [(Outcome.KEPT, "digest_mismatch")]
    assert isinstance(sent(effects)[0], Abort)
    assert ledger.record(CID).term == 2


def test_claim_is_given_again_over_a_new_link_with_what_arrived_meanwhile() -> None:
    machine, _ = forwarding_in(ForwardingState.FORWARDING)
    machine.handle(LinkLost(LINK), 0)
    assert machine.handle(ARRIVED, 0) == []
    effects = machine.handle(received(CLAIM, NEW_LINK), 0)
    assert effects == [Send(NEW_LINK, COMMITTED), Send(NEW_LINK, STRAY)]
    # The end of the old link, noticed late, does not cut the new one.
    assert machine.handle(LinkLost(LINK), 0) == []
    assert machine.handle(ARRIVED, 0) == [Send(NEW_LINK, STRAY)]


def test_claim_is_never_given_to_another_handoff() -> None:
    machines: list[Machine[Any]] = [
        *(giving_in(state)[0] for state in GIVING_BY_LEDGER if state is not GivingState.SAVED),
        *(forwarding_in(state)[0] for state in FORWARDING),
    ]
    for machine in machines:
        before = machine.state
        request = msgspec.structs.replace(CLAIM, handoff_id=OTHER)
        answers = sent(machine.handle(received(request, NEW_LINK), 0))
        assert [type(answer) for answer in answers] == [Refuse], machine
        assert machine.state is before


def test_saved_baton_goes_to_the_first_claim_with_its_strays() -> None:
    machine, _ = giving_in(GivingState.SAVED)
    assert machine.handle(ARRIVED, 0) == []
    first = msgspec.structs.replace(CLAIM, handoff_id=OTHER)
    effects = machine.handle(received(first, NEW_LINK), 0)
    assert sent(effects) == [
        msgspec.structs.replace(COMMITTED, handoff_id=OTHER),
        msgspec.structs.replace(STRAY, handoff_id=OTHER),
    ]
    answer = sent(successor(machine).handle(received(CLAIM, LINK), 0))[0]
    assert isinstance(answer, Refuse)
    assert answer.code == "already_used"


def test_saved_baton_is_superseded_by_a_thaw() -> None:
    machine, _ = giving_in(GivingState.SAVED)
    machine.handle(Cancel(Reason.TAKEOVER, "its process is replaced"), 0)
    answer = sent(machine.handle(received(CLAIM), 0))[0]
    assert isinstance(answer, Refuse)
    assert answer.code == "superseded"


def test_late_ready_of_an_earlier_attempt_is_answered_abort() -> None:
    machine, _ = giving_in(GivingState.FROZEN)
    stale = msgspec.structs.replace(READY, handoff_id=OTHER)
    (answer,) = sent(machine.handle(received(stale, NEW_LINK), 0))
    assert isinstance(answer, Abort)
    assert answer.handoff_id == OTHER
    assert machine.state is GivingState.FROZEN


def test_process_that_forgot_the_machine_answers_from_its_ledger() -> None:
    _, ledger = forwarding_in(ForwardingState.DONE)
    assert answer_stale(ledger, LINK, CLAIM) == [Send(LINK, COMMITTED)]
    assert answer_stale(ledger, LINK, READY) == [Send(LINK, COMMITTED)]
    other = msgspec.structs.replace(READY, handoff_id=OTHER)
    (answer,) = sent(answer_stale(ledger, LINK, other))
    assert isinstance(answer, Abort)
    assert answer_stale(ledger, LINK, Cutover(CID, HANDOFF)) == []


def test_commit_to_a_destination_that_let_go_and_is_forgotten_is_answered_abort() -> None:
    (answer,) = sent(answer_stale(Ledger(), LINK, COMMITTED))
    assert isinstance(answer, Abort)
    assert (answer.code, answer.handoff_id) == ("discarded", HANDOFF)


def test_commit_to_a_destination_that_resumed_and_is_forgotten_needs_no_answer() -> None:
    ledger = Ledger()
    ledger.adopt(CID, COMMITTED.term, BATON_ID, DIGEST)
    assert answer_stale(ledger, LINK, COMMITTED) == []
    ledger.close(CID, 0)
    assert answer_stale(ledger, LINK, COMMITTED) == []


def test_waits_in_which_a_destination_gives_up_before_its_source_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        Waits(frozen_s=2.0, ready_s=1.0)
    with pytest.raises(ConfigurationError):
        Waits(offer_s=0.0)


def test_frozen_time_is_counted_from_the_freeze() -> None:
    machine, _ = giving_in(GivingState.OFFERED)
    assert machine.get_timer() == HANDOFF_OFFER_S * SECOND_US
    machine.handle(received(ACCEPT), 7)
    deadline_us = 7 + HANDOFF_FROZEN_S * SECOND_US
    machine.handle(SEALED, deadline_us - 1)
    assert machine.get_timer() == deadline_us
    assert machine.handle_timer(deadline_us - 1) == []
    assert outcomes(machine.handle_timer(deadline_us)) == [(Outcome.KEPT, "deadline")]
    assert machine.get_timer() is None
    assert machine.ended


def test_strays_prolong_the_forwarding_while_there_is_a_link() -> None:
    machine, _ = forwarding_in(ForwardingState.FORWARDING)
    machine.handle(ARRIVED, 9)
    assert machine.get_timer() == 9 + HANDOFF_FORWARD_S * SECOND_US
    machine.handle(LinkLost(LINK), 10)
    machine.handle(ARRIVED, 11)
    assert machine.get_timer() == 9 + HANDOFF_FORWARD_S * SECOND_US


def test_death_of_the_new_owner_alone_is_no_reason_for_resets() -> None:
    machine, ledger = forwarding_in(ForwardingState.FORWARDING)
    # It may have handed the connection on before it died.
    assert machine.handle(PeerDead(False), 0) == [StopForwarding(CID)]
    assert ledger.record(CID).state is Ownership.GIVEN


def test_baton_names_the_audience_and_the_term() -> None:
    machine, _ = giving_in(GivingState.OFFERED)
    effects = machine.handle(received(ACCEPT), 0)
    assert effects == [FreezeConnection(CID), SealBaton(CID, 1, "D")]


def test_text_too_long_for_a_message_is_cut() -> None:
    machine, _ = giving_in(GivingState.FROZEN)
    (message,) = sent(machine.handle(Cancel(Reason.TAKEOVER, "m" * 9999), 0))
    assert isinstance(message, Abort)
    assert (message.code, message.message) == ("takeover", "m" * 1024)


# --- the destination ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"format_version": 2}, "format_unknown"),
        ({"audience": "another"}, "wrong_audience"),
        ({"size_bytes": 1001}, "no_room"),
    ],
)
def test_offer_that_does_not_fit_is_refused(change: dict[str, object], code: str) -> None:
    machine = TakingByLedger(
        CID, HANDOFF, Ledger(), name="D", formats=frozenset([1]), room_bytes=1000
    )
    offer = msgspec.structs.replace(OFFER, **change)
    (answer,) = sent(machine.handle(received(offer), 0))
    assert isinstance(answer, Refuse)
    assert answer.code == code
    assert machine.ended


@pytest.mark.parametrize(
    "committed",
    [
        msgspec.structs.replace(COMMITTED, term=1),
        msgspec.structs.replace(COMMITTED, term=3),
        msgspec.structs.replace(COMMITTED, baton_id=b"x" * 16),
        msgspec.structs.replace(COMMITTED, digest=b"x" * 32),
    ],
)
def test_claim_for_another_baton_or_term_is_not_resumed(committed: Committed) -> None:
    machine, ledger = taking_in(TakingState.READY)
    effects = machine.handle(received(committed), 0)
    assert outcomes(effects) == [(Outcome.DISCARDED, "superseded")]
    assert isinstance(effects[0], Discard)
    assert ledger.record(CID).state is Ownership.ABSENT


def test_connection_that_is_owned_here_already_is_not_resumed_again() -> None:
    machine, ledger = taking_in(TakingState.READY)
    ledger.own(CID)
    effects = machine.handle(received(COMMITTED), 0)
    assert outcomes(effects) == [(Outcome.DISCARDED, "in_hand")]


@pytest.mark.parametrize("change", [{"term": 2}, {"connection_id": b"another"}])
def test_baton_that_was_not_offered_is_discarded(change: dict[str, object]) -> None:
    machine, _ = taking_in(TakingState.REBUILDING)
    effects = machine.handle(msgspec.structs.replace(REBUILT, **change), 0)
    assert outcomes(effects) == [(Outcome.DISCARDED, "wrong_baton")]


def test_saved_baton_of_another_connection_is_discarded() -> None:
    machine, _ = taking_in(TakingState.IDLE)
    effects = machine.handle(msgspec.structs.replace(REBUILT, connection_id=b"another"), 0)
    assert outcomes(effects) == [(Outcome.DISCARDED, "wrong_baton")]


def test_strays_wait_for_the_resume_in_their_order() -> None:
    machine, _ = taking_in(TakingState.ACCEPTED)
    strays = [msgspec.structs.replace(STRAY, received_us=n) for n in range(3)]
    machine.handle(received(strays[0]), 0)
    machine.handle(received(Baton(CID, HANDOFF, b"sealed")), 0)
    machine.handle(received(strays[1]), 0)
    machine.handle(REBUILT, 0)
    machine.handle(received(strays[2]), 0)
    resume = machine.handle(received(COMMITTED), 0)[0]
    assert isinstance(resume, Resume)
    assert resume.strays == tuple(strays)
    assert resume.claim.term == 2
    assert successor(machine).handle(received(STRAY), 0) == [Deliver(STRAY)]


@pytest.mark.parametrize(
    ("size", "kept"), [(1, MAX_QUEUED_STRAYS), (65_535, 32)], ids=["by number", "by bytes"]
)
def test_full_queue_of_strays_drops_the_oldest(size: int, kept: int) -> None:
    machine, _ = taking_in(TakingState.READY)
    total = MAX_QUEUED_STRAYS + 5
    for number in range(total):
        stray = msgspec.structs.replace(STRAY, datagram=bytes(size), received_us=number)
        machine.handle(received(stray), 0)
    resume = machine.handle(received(COMMITTED), 0)[0]
    assert isinstance(resume, Resume)
    assert [stray.received_us for stray in resume.strays] == list(range(total - kept, total))


def test_ready_destination_that_loses_its_link_asks_over_a_new_one() -> None:
    machine, _ = taking_in(TakingState.READY)
    assert machine.handle(LinkLost(LINK), 0) == [Connect(CID)]
    assert machine.handle(LinkUp(NEW_LINK), 0) == [Send(NEW_LINK, CLAIM)]
    effects = machine.handle(received(COMMITTED, NEW_LINK), 0)
    assert outcomes(effects) == [(Outcome.RESUMED, "ok")]


@pytest.mark.parametrize("certain", [True, False])
def test_client_is_told_by_resets_only_when_it_is_certain_that_no_owner_lives(
    certain: bool,
) -> None:
    machine, _ = taking_in(TakingState.READY)
    assert machine.handle(PeerDead(certain), 0) == []
    effects = machine.handle(LinkLost(LINK), 0)
    assert ("AnswerWithResets" in [type(effect).__name__ for effect in effects]) is certain
    assert outcomes(effects) == [(Outcome.DISCARDED, "peer_dead")]


def test_last_words_of_a_dead_source_are_heard() -> None:
    machine, _ = taking_in(TakingState.LAST_WORDS)
    effects = machine.handle(received(COMMITTED), 0)
    assert outcomes(effects) == [(Outcome.RESUMED, "ok")]


def test_claim_that_comes_after_the_discard_is_declined() -> None:
    machine, ledger = taking_in(TakingState.DISCARDED)
    (answer,) = sent(machine.handle(received(COMMITTED, NEW_LINK), 0))
    assert isinstance(answer, Abort)
    assert ledger.record(CID).state is Ownership.ABSENT


def test_message_about_another_handoff_is_a_peer_error() -> None:
    machine, _ = taking_in(TakingState.READY)
    for stranger in (
        msgspec.structs.replace(COMMITTED, handoff_id=OTHER),
        msgspec.structs.replace(COMMITTED, connection_id=b"another"),
    ):
        with pytest.raises(PeerError) as caught:
            machine.handle(received(stranger), 0)
        assert caught.value.code == "wrong_handoff"
    assert machine.state is TakingState.READY


@pytest.mark.parametrize("event", [CutoverSeen(), ConnectionClosed(), PeerDead(False)])
def test_owner_without_a_link_ends_the_handoff_by_itself(event: Event) -> None:
    machine, _ = cutting_over_in(CuttingOverState.FORWARDED)
    assert machine.handle(LinkLost(LINK), 0) == [Connect(CID)]
    assert machine.handle(event, 0) == []
    assert machine.state is CuttingOverState.DONE


@pytest.mark.parametrize(
    "make",
    [lambda: giving_in(GivingState.FROZEN)[0], lambda: taking_in(TakingState.READY)[0]],
)
def test_handoff_ids_stay_out_of_reprs(
    make: Callable[[], Giving | Taking],
) -> None:
    text = repr(make())
    assert CID.hex() in text
    assert HANDOFF.hex() not in text
    assert "hhhh" not in text
