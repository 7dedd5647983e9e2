"""How the shared store's operations are decided: every kind of entry, every operation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError
from quicbaton.ownership.store import (
    Close,
    Conflict,
    Done,
    Entry,
    EntryState,
    Holder,
    Operation,
    Publish,
    Take,
    decide,
)

CID = b"connection"
BATON, OTHER_BATON, DIGEST = b"b" * 16, b"c" * 16, b"d" * 32
SOURCE, DESTINATION = Holder("S", b"s" * 16), Holder("D", b"d" * 16)
#: A process with the source's name that was started after it.
SUCCESSOR = Holder("S", b"t" * 16)

OFFERED = Entry(EntryState.OFFERED, 5, SOURCE, BATON, DIGEST)
TAKEN = Entry(EntryState.HELD, 6, DESTINATION, BATON, DIGEST)
TAKEN_BACK = Entry(EntryState.HELD, 6, SOURCE, BATON, DIGEST)
ENTRIES: dict[str, Entry | None] = {
    "absent": None,
    "older": Entry(EntryState.HELD, 4, DESTINATION, OTHER_BATON, DIGEST),
    "older offer": Entry(EntryState.OFFERED, 4, DESTINATION, OTHER_BATON, DIGEST),
    "held": Entry(EntryState.HELD, 5, SOURCE, OTHER_BATON, DIGEST),
    "held by another": Entry(EntryState.HELD, 5, DESTINATION, OTHER_BATON, DIGEST),
    "held by successor": Entry(EntryState.HELD, 5, SUCCESSOR, OTHER_BATON, DIGEST),
    "offered": OFFERED,
    "other baton": Entry(EntryState.OFFERED, 5, SOURCE, OTHER_BATON, DIGEST),
    "other digest": Entry(EntryState.OFFERED, 5, SOURCE, BATON, b"x" * 32),
    "offered by another": Entry(EntryState.OFFERED, 5, DESTINATION, BATON, DIGEST),
    "taken": TAKEN,
    "taken back": TAKEN_BACK,
    "closed": Entry(EntryState.CLOSED, 5, SOURCE, BATON, DIGEST),
    "closed later": Entry(EntryState.CLOSED, 6, DESTINATION, BATON, DIGEST),
}
PUBLISH = Publish(CID, 5, SOURCE, BATON, DIGEST)
TAKE = Take(CID, 5, "S", BATON, DIGEST, DESTINATION)
TAKE_BACK = Take(CID, 5, "S", BATON, DIGEST, SOURCE)
CLOSE = Close(CID, 6, DESTINATION)


def outcome(entry: Entry | None, operation: Operation) -> str:
    """`again`, `conflict`, or what stands then."""
    result, write = decide(entry, operation)
    if isinstance(result, Conflict):
        assert not write
        assert result.entry == entry
        return "conflict"
    if not write:
        assert result.entry == entry
        return "again"
    assert result.entry is not None
    return f"{result.entry.state.value} {result.entry.term} {result.entry.holder.name}"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (
            PUBLISH,
            {
                "absent": "offered 5 S",
                "older": "offered 5 S",
                "older offer": "offered 5 S",
                "held": "offered 5 S",
                "offered": "again",
            },
        ),
        (TAKE, {"offered": "held 6 D", "taken": "again"}),
        (TAKE_BACK, {"offered": "held 6 S", "taken back": "again"}),
        (CLOSE, {"absent": "again", "taken": "closed 6 D", "closed later": "again"}),
    ],
    ids=["publish", "take", "take back", "close"],
)
def test_every_operation_on_every_entry(operation: Operation, expected: dict[str, str]) -> None:
    found = {name: outcome(entry, operation) for name, entry in ENTRIES.items()}
    assert found == dict.fromkeys(ENTRIES, "conflict") | expected


def test_process_of_the_same_name_is_another_holder() -> None:
    taken_by_one = decide(OFFERED, TAKE)[0].entry
    namesake = Take(CID, 5, "S", BATON, DIGEST, Holder("D", b"e" * 16))
    assert decide(taken_by_one, namesake) == (Conflict(taken_by_one), False)


@pytest.mark.parametrize("holder", [("", b"i" * 16), ("n" * 256, b"i" * 16), ("n", b"i")])
def test_holder_without_name_or_incarnation_is_refused(holder: tuple[str, bytes]) -> None:
    with pytest.raises(ConfigurationError):
        Holder(*holder)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["publish", "take", "close"]),
            st.integers(1, 4),
            st.sampled_from([SOURCE, DESTINATION, SUCCESSOR]),
            st.sampled_from([BATON, OTHER_BATON]),
        ),
        max_size=30,
    )
)
def test_whatever_is_asked_terms_only_rise_and_a_term_is_taken_once(
    asked: list[tuple[str, int, Holder, bytes]],
) -> None:
    entry: Entry | None = None
    takers: dict[int, set[Holder]] = {}
    terms = [0]
    for kind, term, holder, baton_id in asked:
        operation: Operation
        if kind == "publish":
            operation = Publish(CID, term, holder, baton_id, DIGEST)
        elif kind == "take":
            operation = Take(CID, term, "S", baton_id, DIGEST, holder)
        else:
            operation = Close(CID, term, holder)
        result, write = decide(entry, operation)
        if isinstance(result, Done) and kind == "take":
            takers.setdefault(term + 1, set()).add(holder)
        if write:
            entry = result.entry
        # Asking twice is asking once.
        assert isinstance(decide(entry, operation)[0], Done) == isinstance(result, Done)
        assert not decide(entry, operation)[1]
        terms.append(0 if entry is None else entry.term)
    assert terms == sorted(terms)
    assert all(len(holders) == 1 for holders in takers.values())
