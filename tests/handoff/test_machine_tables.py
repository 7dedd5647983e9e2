"""Every machine of a handoff, cell by cell: each event in each state is a line of a written table,
or a typed error."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from quicbaton.errors import QuicbatonError
from quicbaton.handoff import (
    cutting_over,
    forwarding,
    giving_by_ledger,
    giving_by_store,
    taking_by_ledger,
    taking_by_store,
)
from quicbaton.handoff.effects import DestroyKeys, Resume
from quicbaton.handoff.events import Event
from quicbaton.handoff.machine import Machine
from tests.handoff.machine_cells import (
    CUTTING_OVER,
    DESTINATION_EVENTS,
    EVENTS,
    FORWARDING,
    GIVING_BY_LEDGER,
    GIVING_BY_STORE,
    SOURCE_EVENTS,
    TAKING_BY_LEDGER,
    TAKING_BY_STORE,
    cutting_over_in,
    forwarding_in,
    giving_by_store_in,
    giving_in,
    row,
    taking_by_store_in,
    taking_in,
    written,
)

MACHINES: dict[str, tuple[Iterable[Any], Callable[[Any], tuple[Machine[Any], Any]], list[Event]]]
MACHINES = {
    "giving_by_ledger": (GIVING_BY_LEDGER, giving_in, EVENTS),
    "giving_by_store": (GIVING_BY_STORE, giving_by_store_in, SOURCE_EVENTS),
    "forwarding": (FORWARDING, forwarding_in, SOURCE_EVENTS),
    "taking_by_ledger": (TAKING_BY_LEDGER, taking_in, EVENTS),
    "taking_by_store": (TAKING_BY_STORE, taking_by_store_in, DESTINATION_EVENTS),
    "cutting_over": (CUTTING_OVER, cutting_over_in, EVENTS),
}


@pytest.mark.parametrize("name", MACHINES)
def test_every_event_in_every_state(name: str) -> None:
    states, make, events = MACHINES[name]
    assert lines(states, make, events) == written(f"{name}_table.txt")


def test_a_store_that_gave_the_connection_away_changes_two_answers_of_a_forwarder() -> None:
    by_store = lines(FORWARDING, lambda state: forwarding_in(state, by_store=True), SOURCE_EVENTS)
    by_ledger = written("forwarding_table.txt")
    assert [line for line in by_store if line not in by_ledger] == [
        "forwarding + ClaimRequest -> forwarding Send(Refuse)",
        "forwarding + StoreDone -> done StopForwarding AnswerWithResets AskStore [lost: in_doubt]",
        "proxying + ClaimRequest -> proxying Send(Refuse)",
        "done + ClaimRequest -> done Send(Refuse)",
    ]
    assert len(by_store) == len(by_ledger)


def test_a_store_that_gave_the_connection_changes_what_the_owner_says_over_a_new_link() -> None:
    by_store = lines(CUTTING_OVER, lambda state: cutting_over_in(state, by_store=True), EVENTS)
    by_ledger = written("cutting_over_table.txt")
    assert [line for line in by_store if line not in by_ledger] == [
        "forwarded + LinkUp -> forwarded Send(Taken)",
        "cut_off + LinkUp -> proxied Send(Taken) WakeProxied",
    ]
    assert len(by_store) == len(by_ledger)


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_has_a_successor_when_the_connection_has_changed_hands_and_only_then(
    name: str,
) -> None:
    states, make, events = MACHINES[name]
    for state in states:
        for event in events:
            machine, _ = make(state)
            with contextlib.suppress(QuicbatonError):
                effects = machine.handle(event, 10)
                changed = any(isinstance(effect, (DestroyKeys, Resume)) for effect in effects)
                assert (machine.successor is not None) is changed, (state, event)


@pytest.mark.parametrize(
    "module",
    [
        giving_by_ledger,
        giving_by_store,
        forwarding,
        taking_by_ledger,
        taking_by_store,
        cutting_over,
    ],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_no_cell_is_written_twice(module: Any) -> None:
    cells = [(state, kind) for state, of_state, _, _ in module._ROWS for kind in of_state]
    assert len(cells) == len(set(cells))


def lines(
    states: Iterable[Any], make: Callable[[Any], tuple[Machine[Any], Any]], events: list[Event]
) -> list[str]:
    """The table as it is written down."""
    tried = [row(make(state)[0], event) for state in states for event in events]
    return [line for line in tried if line is not None]
