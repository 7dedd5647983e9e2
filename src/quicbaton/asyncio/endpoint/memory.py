"""What an endpoint does when the memory of its connections runs low (transport/budget.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.transport import frames as f
from quicbaton.transport.budget import MemoryBudget, Pressure

_REASON: Final = "the server is short of memory, and this connection holds most of it"


def refuses_clients(budget: MemoryBudget) -> bool:
    """Whether there is too little for one more client."""
    return budget.pressure >= Pressure.FULL


def relieve(
    budget: MemoryBudget, sessions: Mapping[bytes, Session], counters: Counter[str]
) -> None:
    """Close the connections that hold most until there is memory, and give credit to those that
    waited for it."""
    while (largest := budget.largest_holder()) is not None:
        session = sessions.get(largest.name)
        if largest.shed is not None:
            counters["closed_for_memory"] += 1
            largest.shed()
        elif session is not None:
            counters["closed_for_memory"] += 1
            session.connection.close(f.INTERNAL_ERROR, 0, _REASON)
            session.process()
        # It holds nothing any more, or is in nobody's hands: neither can help a second time.
        largest.close()
    for account in budget.take_relieved():
        session = sessions.get(account.name)
        if session is not None and not session.is_over:
            session.connection.restore_credit()
            session.transmit_soon()
