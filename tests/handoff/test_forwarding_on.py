"""A connection that is handed on in the middle of its cutover: which process forwards to which."""

from __future__ import annotations

import pytest

from quicbaton.errors import PeerError
from quicbaton.handoff import (
    CuttingOver,
    CuttingOverState,
    Forwarding,
    ForwardingState,
    GivingByLedger,
    TakingByLedger,
    answer_stale,
)
from quicbaton.handoff import events as ev
from quicbaton.handoff.effects import (
    Connect,
    Deliver,
    Effect,
    NoteBlackout,
    Reroute,
    Send,
    SendProxied,
    StopForwarding,
)
from quicbaton.handoff.messages import (
    Accept,
    Baton,
    ClaimRequest,
    Committed,
    Cutover,
    HandoffMessage,
    Moved,
    MovedAck,
    Offer,
    ProxiedTrain,
    Ready,
    Refuse,
    Resumed,
    Stray,
)
from quicbaton.limits import HANDOFF_FORWARD_S, HANDOFF_PROXY_LOST_S
from quicbaton.ownership import Ledger
from quicbaton.reasons import Reason

CID, HANDOFF, BATON_ID, DIGEST = b"connection", b"h" * 16, b"b" * 16, b"d" * 32
TO_B, TO_C = 1, 2
ARRIVED = ev.StrayArrived(b"datagram", ("::1", 1), (), 0, 5)
STRAY = Stray(CID, HANDOFF, b"datagram", ("::1", 1), (), 0, 5)
READY = Ready(CID, HANDOFF, BATON_ID, DIGEST)
TRAIN = ProxiedTrain(CID, HANDOFF, b"train", 1200, ("::1", 1), (), 0)
ACK = MovedAck(CID, HANDOFF)


def giving(*, proxied: bool = False, sealed_at_us: int = 0) -> GivingByLedger:
    """A, which is about to give the connection to B."""
    ledger = Ledger()
    ledger.own(CID)
    machine = GivingByLedger(CID, HANDOFF, ledger)
    accept = Accept(CID, HANDOFF, proxy=proxied)
    machine.handle(ev.Start(TO_B, "A", "B", 100, 2, False, ("::1", 443), proxied), 0)
    machine.handle(ev.Received(TO_B, accept), 0)
    machine.handle(ev.Sealed(BATON_ID, DIGEST, b"sealed"), sealed_at_us)
    return machine


def forwarder(*, proxied: bool = False) -> Forwarding:
    """A, which has just given it away."""
    machine = giving(proxied=proxied)
    machine.handle(ev.Received(TO_B, READY), 0)
    assert machine.successor is not None
    return machine.successor


def owner(*, proxied: bool = False) -> CuttingOver:
    """B, which has just got it, on the link to A."""
    machine = TakingByLedger(
        CID, HANDOFF, Ledger(), name="B", formats=frozenset([2]), can_send=not proxied
    )
    offer = Offer(CID, HANDOFF, 1, 100, 2, "A", "B", ("::1", 443), proxied, b"")
    machine.handle(ev.Received(TO_B, offer), 0)
    machine.handle(ev.Received(TO_B, Baton(CID, HANDOFF, b"sealed")), 0)
    machine.handle(ev.Rebuilt(CID, 1, BATON_ID, DIGEST), 0)
    machine.handle(ev.Received(TO_B, Committed(CID, HANDOFF, 2, BATON_ID, DIGEST, 9)), 0)
    assert machine.successor is not None
    return machine.successor


def announced() -> CuttingOver:
    """C, to which A has turned over a link of its own."""
    greeting = Moved(CID, HANDOFF, "C")
    return CuttingOver(CID, HANDOFF, link=TO_C, greeting=greeting, now_us=0)


def sent(effects: list[Effect]) -> list[tuple[int, HandoffMessage]]:
    return [(effect.link, effect.message) for effect in effects if isinstance(effect, Send)]


# --- the forwarder --------------------------------------------------------------------------------


def test_a_forwarder_turns_to_the_new_owner_once_it_is_through_to_it() -> None:
    machine = forwarder()
    assert machine.handle(ev.Received(TO_B, Moved(CID, HANDOFF, "C")), 0) == [Reroute("C")]
    # Until then strays go the old way.
    assert machine.handle(ARRIVED, 0) == [Send(TO_B, STRAY)]
    assert machine.handle(ev.LinkUp(TO_C), 0) == [Send(TO_B, ACK), Send(TO_C, ACK)]
    assert machine.handle(ARRIVED, 0) == [Send(TO_C, STRAY)]
    # What becomes of the old owner's link is nothing to it any more.
    assert machine.handle(ev.LinkLost(TO_B), 0) == []
    assert machine.handle(ARRIVED, 0) == [Send(TO_C, STRAY)]


def test_strays_wait_for_the_new_owner_when_the_old_one_is_gone() -> None:
    machine = forwarder()
    machine.handle(ev.Received(TO_B, Moved(CID, HANDOFF, "C")), 0)
    machine.handle(ev.LinkLost(TO_B), 0)
    assert machine.handle(ARRIVED, 0) == []
    effects = machine.handle(ev.LinkUp(TO_C), 0)
    assert sent(effects)[1:] == [(TO_C, ACK), (TO_C, STRAY)]


def test_an_owner_that_lost_its_link_asks_for_strays_again_and_gets_one_answer() -> None:
    machine = forwarder()
    machine.handle(ev.Received(TO_C, Moved(CID, HANDOFF, "C")), 0)
    assert machine.handle(ev.LinkUp(TO_C), 0) == [Send(TO_C, ACK)]


def test_a_forwarder_that_owns_the_connection_again_forwards_no_more() -> None:
    machine = forwarder()
    machine.handle(ev.Received(TO_B, Moved(CID, HANDOFF, "A")), 0)
    assert machine.handle(ev.TakenBack(), 0) == [StopForwarding(CID), Send(TO_B, ACK)]
    assert machine.ended
    late = Moved(CID, HANDOFF, "C")
    assert machine.handle(ev.Received(TO_B, late), 0) == [Send(TO_B, ACK)]


def test_a_forwarder_that_has_forgotten_the_connection_keeps_nobody_waiting() -> None:
    assert answer_stale(Ledger(), TO_B, Moved(CID, HANDOFF, "C")) == [Send(TO_B, ACK)]


def test_a_new_owner_that_does_not_know_the_connection_ends_the_forwarding() -> None:
    machine = forwarder()
    refusal = Refuse(CID, HANDOFF, "not_owned", "never heard of it")
    assert machine.handle(ev.Received(TO_C, refusal), 0) == [StopForwarding(CID)]
    assert machine.ended


def test_the_destination_reports_the_blackout_even_after_the_forwarding() -> None:
    machine = forwarder()
    resumed = ev.Received(TO_B, Resumed(CID, HANDOFF, 1500))
    assert machine.handle(resumed, 0) == [NoteBlackout(1500)]
    machine.handle(ev.Received(TO_B, Cutover(CID, HANDOFF)), 0)
    assert machine.handle(resumed, 0) == [NoteBlackout(1500)]


# --- the old owner --------------------------------------------------------------------------------


def test_the_old_owner_passes_strays_on_until_the_forwarder_has_turned() -> None:
    machine = owner()
    assert machine.handle(ev.GivenOn("C"), 0) == [Send(TO_B, Moved(CID, HANDOFF, "C"))]
    assert machine.handle(ev.Received(TO_B, STRAY), 0) == [Deliver(STRAY)]
    assert machine.state is CuttingOverState.HANDED_ON
    assert machine.handle(ev.Received(TO_B, ACK), 0) == []
    assert machine.ended


def test_a_forwarder_out_of_reach_is_told_when_it_is_back() -> None:
    machine = owner()
    assert machine.handle(ev.LinkLost(TO_B), 0) == [Connect(CID)]
    assert machine.handle(ev.GivenOn("C"), 0) == []
    assert sent(machine.handle(ev.LinkUp(3), 0)) == [(3, Moved(CID, HANDOFF, "C"))]


@pytest.mark.parametrize(
    "event", [ev.PeerDead(False), ev.Cancel(Reason.SOURCE_GONE, "it is"), ev.DeadlinePassed()]
)
def test_a_forwarder_that_is_gone_is_waited_for_no_more(event: ev.Event) -> None:
    machine = owner()
    machine.handle(ev.GivenOn("C"), 0)
    assert machine.get_timer() == HANDOFF_FORWARD_S * 1_000_000
    machine.handle(event, 0)
    assert machine.ended


# --- the new owner --------------------------------------------------------------------------------


def test_an_announced_forwarder_is_told_of_the_cutover_as_the_source_is() -> None:
    machine = announced()
    assert machine.handle(ev.Received(TO_C, STRAY), 0) == [Deliver(STRAY)]
    assert machine.handle(ev.CutoverSeen(), 0) == [Send(TO_C, Cutover(CID, HANDOFF))]


def test_an_announced_forwarder_whose_link_broke_is_asked_to_turn_again() -> None:
    machine = announced()
    assert machine.handle(ev.LinkLost(TO_C), 0) == [Connect(CID)]
    # It has no claim to ask for, as the handoff's own destination has.
    assert machine.handle(ev.LinkUp(4), 0) == [Send(4, Moved(CID, HANDOFF, "C"))]
    assert isinstance(sent(rejoined(owner()))[0][1], ClaimRequest)


def rejoined(machine: CuttingOver) -> list[Effect]:
    machine.handle(ev.LinkLost(TO_B), 0)
    return machine.handle(ev.LinkUp(4), 0)


# --- proxying -------------------------------------------------------------------------------------


def test_nobody_is_proxied_who_was_not_offered_it() -> None:
    machine = GivingByLedger(CID, HANDOFF, ledger := Ledger())
    ledger.own(CID)
    machine.handle(ev.Start(TO_B, "A", "B", 100, 2, False), 0)
    with pytest.raises(PeerError):
        machine.handle(ev.Received(TO_B, Accept(CID, HANDOFF, proxy=True)), 0)


def test_a_proxied_connection_has_no_deadline_but_for_its_link() -> None:
    machine = forwarder(proxied=True)
    assert machine.state is ForwardingState.PROXYING
    assert machine.get_timer() is None
    assert machine.handle(ev.Received(TO_B, TRAIN), 0) == [SendProxied(TRAIN)]
    machine.handle(ev.LinkLost(TO_B), 7)
    assert machine.get_timer() == 7 + HANDOFF_PROXY_LOST_S * 1_000_000
    assert machine.handle(ARRIVED, 8) == []
    claim = ClaimRequest(CID, HANDOFF, BATON_ID, DIGEST)
    effects = machine.handle(ev.Received(4, claim), 9)
    assert [type(message) for _, message in sent(effects)] == [Committed, Stray]
    assert machine.get_timer() is None


def test_a_proxied_owner_without_a_link_waits_and_then_gives_up() -> None:
    machine = owner(proxied=True)
    assert machine.state is CuttingOverState.PROXIED
    assert machine.get_timer() is None
    machine.handle(ev.LinkLost(TO_B), 7)
    assert machine.get_timer() == 7 + HANDOFF_PROXY_LOST_S * 1_000_000
    # The runtime dials for a while and says so: go on.
    assert machine.handle(ev.Cancel(Reason.SOURCE_GONE, "for now"), 8) == [Connect(CID)]
    machine.handle(ev.LinkUp(4), 9)
    assert machine.state is CuttingOverState.PROXIED
    assert machine.get_timer() is None


def test_time_stood_still_is_counted_by_the_source_alone() -> None:
    machine = giving(sealed_at_us=100)
    (_, message) = sent(machine.handle(ev.Received(TO_B, READY), 350))[0]
    assert isinstance(message, Committed)
    assert message.frozen_us == 250
