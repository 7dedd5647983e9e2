"""The ledger: every cell of its table, and one claim per baton in any order of calls."""

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import FencedError, InternalError, QuicbatonError
from quicbaton.limits import MAX_TOMBSTONES, TOMBSTONE_LIFETIME_S
from quicbaton.ownership import Claim, Ledger, Operation, Ownership

CID = b"connection"
BATON, OTHER_BATON = b"b" * 16, b"c" * 16
DIGEST, OTHER_DIGEST = b"d" * 32, b"e" * 32
HANDOFF, OTHER_HANDOFF = b"h" * 16, b"i" * 16
LIFETIME_US = TOMBSTONE_LIFETIME_S * 1_000_000


def ledger_in(state: Ownership, handoff_id: bytes = HANDOFF) -> Ledger:
    ledger = Ledger()
    if state is Ownership.ABSENT:
        return ledger
    ledger.own(CID)
    if state is Ownership.CLOSED:
        ledger.close(CID, 0)
    if state in (Ownership.FROZEN, Ownership.SEALED, Ownership.GIVEN):
        ledger.freeze(CID, handoff_id)
    if state in (Ownership.SEALED, Ownership.GIVEN):
        ledger.bind(CID, BATON, DIGEST)
    if state is Ownership.GIVEN:
        ledger.commit(CID, BATON, DIGEST, HANDOFF, 0)
    assert ledger.record(CID).state is state
    return ledger


CALLS: dict[Operation, Callable[[Ledger], object]] = {
    Operation.OWN: lambda ledger: ledger.own(CID),
    Operation.ADOPT: lambda ledger: ledger.adopt(CID, 9, BATON, DIGEST),
    Operation.FREEZE: lambda ledger: ledger.freeze(CID, HANDOFF),
    Operation.BIND: lambda ledger: ledger.bind(CID, BATON, DIGEST),
    Operation.THAW: lambda ledger: ledger.thaw(CID),
    Operation.COMMIT: lambda ledger: ledger.commit(CID, BATON, DIGEST, HANDOFF, 0),
    Operation.REISSUE: lambda ledger: ledger.reissue(CID, BATON, DIGEST, HANDOFF),
    Operation.CLOSE: lambda ledger: ledger.close(CID, 0),
}

#: Written out a second time, from the design: (state, operation) to (state, term) from term 1.
EXPECTED = {
    (Ownership.ABSENT, Operation.OWN): (Ownership.OWNED, 1),
    (Ownership.ABSENT, Operation.ADOPT): (Ownership.OWNED, 9),
    (Ownership.GIVEN, Operation.ADOPT): (Ownership.OWNED, 9),
    (Ownership.OWNED, Operation.FREEZE): (Ownership.FROZEN, 1),
    (Ownership.FROZEN, Operation.BIND): (Ownership.SEALED, 1),
    (Ownership.FROZEN, Operation.THAW): (Ownership.OWNED, 2),
    (Ownership.SEALED, Operation.THAW): (Ownership.OWNED, 2),
    (Ownership.SEALED, Operation.COMMIT): (Ownership.GIVEN, 2),
    (Ownership.GIVEN, Operation.REISSUE): (Ownership.GIVEN, 2),
    (Ownership.OWNED, Operation.CLOSE): (Ownership.CLOSED, 1),
    (Ownership.FROZEN, Operation.CLOSE): (Ownership.CLOSED, 1),
    (Ownership.SEALED, Operation.CLOSE): (Ownership.CLOSED, 1),
    (Ownership.GIVEN, Operation.CLOSE): (Ownership.CLOSED, 2),
}


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("state", Ownership)
def test_every_operation_in_every_state(state: Ownership, operation: Operation) -> None:
    ledger = ledger_in(state)
    before = ledger.record(CID)
    if (state, operation) in EXPECTED:
        CALLS[operation](ledger)
        after = ledger.record(CID)
        assert (after.state, after.term) == EXPECTED[state, operation]
    else:
        with pytest.raises(FencedError):
            CALLS[operation](ledger)
        assert ledger.record(CID) == before


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (Ownership.ABSENT, "no_such_connection"),
        (Ownership.OWNED, "superseded"),
        (Ownership.FROZEN, "superseded"),
        (Ownership.GIVEN, "already_used"),
        (Ownership.CLOSED, "closed"),
    ],
)
def test_refused_commit_says_why(state: Ownership, code: str) -> None:
    with pytest.raises(FencedError) as caught:
        ledger_in(state).commit(CID, BATON, DIGEST, OTHER_HANDOFF, 0)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("baton_id", "digest", "handoff_id", "code"),
    [
        (OTHER_BATON, DIGEST, HANDOFF, "superseded"),
        (BATON, OTHER_DIGEST, HANDOFF, "digest_mismatch"),
        (BATON, DIGEST, OTHER_HANDOFF, "wrong_audience"),
    ],
)
def test_commit_is_for_the_sealed_baton_and_its_handoff(
    baton_id: bytes, digest: bytes, handoff_id: bytes, code: str
) -> None:
    ledger = ledger_in(Ownership.SEALED)
    with pytest.raises(FencedError) as caught:
        ledger.commit(CID, baton_id, digest, handoff_id, 0)
    assert caught.value.code == code
    assert ledger.record(CID).state is Ownership.SEALED


def test_saved_baton_is_given_to_the_first_who_asks_and_to_no_second() -> None:
    ledger = ledger_in(Ownership.SEALED, handoff_id=b"")
    first = ledger.commit(CID, BATON, DIGEST, OTHER_HANDOFF, 0)
    with pytest.raises(FencedError) as caught:
        ledger.commit(CID, BATON, DIGEST, HANDOFF, 0)
    assert caught.value.code == "already_used"
    with pytest.raises(FencedError) as caught:
        ledger.reissue(CID, BATON, DIGEST, HANDOFF)
    assert caught.value.code == "already_used"
    assert ledger.reissue(CID, BATON, DIGEST, OTHER_HANDOFF) == first


def test_old_baton_never_fits_a_newer_claim() -> None:
    ledger = ledger_in(Ownership.SEALED)
    ledger.thaw(CID)
    ledger.freeze(CID, HANDOFF)
    ledger.bind(CID, OTHER_BATON, DIGEST)
    with pytest.raises(FencedError):
        ledger.commit(CID, BATON, DIGEST, HANDOFF, 0)
    claim = ledger.commit(CID, OTHER_BATON, DIGEST, HANDOFF, 0)
    claim.check(connection_id=CID, baton_term=2, baton_id=OTHER_BATON, digest=DIGEST)
    for wrong in (
        {"connection_id": b"another"},
        {"baton_term": 1},
        {"baton_term": 3},
        {"baton_id": BATON},
        {"digest": OTHER_DIGEST},
    ):
        right = {
            "connection_id": CID,
            "baton_term": 2,
            "baton_id": OTHER_BATON,
            "digest": DIGEST,
        }
        with pytest.raises(FencedError):
            claim.check(**(right | wrong))  # type: ignore[arg-type]


def test_connection_that_comes_back_needs_a_newer_term() -> None:
    ledger = ledger_in(Ownership.GIVEN)  # in term 2
    for old_term in (1, 2):
        with pytest.raises(FencedError) as caught:
            ledger.adopt(CID, old_term, OTHER_BATON, DIGEST)
        assert caught.value.code == "superseded"
    ledger.adopt(CID, 3, OTHER_BATON, DIGEST)
    assert ledger.record(CID).state is Ownership.OWNED
    # It has left the tombstones: it is not forgotten when they are.
    assert ledger.expire(10 * LIFETIME_US) == 0
    with pytest.raises(FencedError):
        ledger.adopt(CID, 4, OTHER_BATON, DIGEST)


def test_only_a_ledger_makes_a_claim() -> None:
    with pytest.raises(InternalError):
        Claim(CID, 1, BATON, DIGEST, object())
    claim = ledger_in(Ownership.GIVEN).reissue(CID, BATON, DIGEST, HANDOFF)
    with pytest.raises(InternalError):
        dataclasses.replace(claim, term=5, mint=None)
    with pytest.raises(InternalError):
        pickle.dumps(claim)
    with pytest.raises(InternalError):
        copy.copy(claim)
    with pytest.raises(dataclasses.FrozenInstanceError):
        claim.term = 5  # type: ignore[misc]


def test_tombstones_expire_and_what_is_forgotten_is_refused() -> None:
    ledger = ledger_in(Ownership.GIVEN)
    assert ledger.expire(LIFETIME_US - 1) == 0
    assert ledger.expire(LIFETIME_US) == 1
    with pytest.raises(FencedError) as caught:
        ledger.reissue(CID, BATON, DIGEST, HANDOFF)
    assert caught.value.code == "no_such_connection"


def test_tombstones_are_bounded_and_the_oldest_goes_first() -> None:
    ledger = Ledger()
    for number in range(MAX_TOMBSTONES + 3):
        connection_id = number.to_bytes(4, "big")
        ledger.own(connection_id)
        ledger.close(connection_id, number)
    kept = [
        number
        for number in range(MAX_TOMBSTONES + 3)
        if ledger.record(number.to_bytes(4, "big")).state is Ownership.CLOSED
    ]
    assert kept == list(range(3, MAX_TOMBSTONES + 3))
    assert repr(ledger) == f"Ledger(owned=0, frozen=0, sealed=0, given=0, closed={MAX_TOMBSTONES})"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["freeze", "bind", "thaw", "commit", "reissue", "close"]),
            st.integers(0, 3),
            st.sampled_from([HANDOFF, OTHER_HANDOFF]),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_no_baton_is_both_thawed_over_and_claimed_nor_claimed_by_two(
    calls: list[tuple[str, int, bytes, bool]],
) -> None:
    ledger = Ledger()
    ledger.own(CID)
    bound: list[tuple[bytes, int]] = []
    taken: dict[bytes, bytes] = {}  # baton id -> who got it, "" for the source's own thaw
    terms = [1]
    for name, pick, handoff_id, for_any in calls:
        baton_id = bytes([pick % max(1, len(bound))]) * 16
        current = bound[-1][0] if bound else b""
        try:
            if name == "freeze":
                ledger.freeze(CID, b"" if for_any else handoff_id)
            elif name == "bind":
                new = bytes([len(bound)]) * 16
                ledger.bind(CID, new, DIGEST)
                bound.append((new, ledger.record(CID).term))
            elif name == "thaw":
                sealed = ledger.record(CID).state is Ownership.SEALED
                ledger.thaw(CID)
                if sealed:
                    assert taken.setdefault(current, b"") == b""
            elif name == "close":
                ledger.close(CID, 0)
            else:
                if name == "commit":
                    claim = ledger.commit(CID, baton_id, DIGEST, handoff_id, 0)
                else:
                    claim = ledger.reissue(CID, baton_id, DIGEST, handoff_id)
                assert taken.setdefault(baton_id, handoff_id) == handoff_id
                claim.check(
                    connection_id=CID,
                    baton_term=dict(bound)[baton_id],
                    baton_id=baton_id,
                    digest=DIGEST,
                )
        except QuicbatonError:
            pass
        terms.append(ledger.record(CID).term)
    assert terms == sorted(terms)
