"""What a process does when the memory of its connections runs low (transport/budget.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Protocol

from quicbaton.transport.budget import MemoryBudget, Pressure

_REASON: Final = "the server is short of memory, and this connection holds most of it"


class Holder(Protocol):
    """A connection with an account in the budget."""

    def close_for_memory(self, reason: str) -> None:
        """Close: it holds the most, and must hold nothing."""

    def restore_credit(self) -> None:
        """Give its peer the credit that was withheld."""


class Memory:
    """The budget of a process, and the holders of its accounts.

    `sessions` are its QUIC connections, `others` those that share the budget with them; both by the
    names of their accounts. `counters["closed_for_memory"]` counts the connections that were
    closed.
    """

    def __init__(
        self, total_bytes: int, sessions: Mapping[bytes, Holder], counters: Counter[str]
    ) -> None:
        self.budget = MemoryBudget(total_bytes)
        self.others: dict[bytes, Holder] = {}
        self._sessions = sessions
        self._counters = counters

    @property
    def refuses_clients(self) -> bool:
        """Whether there is too little memory for one more client."""
        return refuses_clients(self.budget)

    def relieve(self) -> None:
        """Close the connections that hold most until there is memory, and give credit to those that
        waited for it."""
        budget = self.budget
        if not budget.needs_attention:
            return
        while (largest := budget.largest_holder()) is not None:
            holder = self._find(largest.name)
            if largest.shed is not None:
                self._counters["closed_for_memory"] += 1
                largest.shed()
            elif holder is not None:
                self._counters["closed_for_memory"] += 1
                holder.close_for_memory(_REASON)
            # It holds nothing any more, or has no holder: neither can help a second time.
            largest.close()
        for account in budget.take_relieved():
            holder = self._find(account.name)
            if holder is not None:
                holder.restore_credit()

    def _find(self, name: bytes) -> Holder | None:
        return self._sessions.get(name) or self.others.get(name)


def refuses_clients(budget: MemoryBudget) -> bool:
    """Whether there is too little memory for one more client."""
    return budget.pressure >= Pressure.FULL
