"""The memory that the connections of a process share: credit is granted from it.

It counts the bytes that peers and programs make connections hold: stream bytes received and not
consumed, or kept beside the connection for a program that has not taken them, and bytes written and
not acknowledged. As it fills, these follow one another:

    ENOUGH   windows grow by auto-tuning, as long as no more than half of everything is promised
    TIGHT    from 1/2 on: windows and send buffers shrink to a minimum
    LOW      from 3/4 on: a connection that holds more than the smallest window gets no credit
    FULL     from 7/8 on: new clients are refused
    OVER     the connection that holds the most is closed

So a connection that holds little goes on at every step: those that hold much pay.

Accounts are brought up to date once a batch. `take_relieved` returns connections that waited for
credit when there is memory again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from quicbaton import limits


class Pressure(IntEnum):
    """How much of the memory is in use; see the module's head."""

    ENOUGH = 0
    TIGHT = 1
    LOW = 2
    FULL = 3
    OVER = 4


#: Where each begins, in eighths of everything.
_EIGHTHS: Final = (0, 4, 6, 7, 8)


class MemoryBudget:
    """The limit for the memory of all connections of a process together."""

    __slots__ = (
        "_accounts",
        "_ceiling",
        "_floor",
        "_relieved",
        "_waiting",
        "held_bytes",
        "pressure",
        "promised_bytes",
        "total_bytes",
    )

    def __init__(self, total_bytes: int = limits.MEMORY_BUDGET_BYTES) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        #: By windows beyond those that every connection begins with.
        self.promised_bytes = 0
        self.pressure = Pressure.ENOUGH
        self._accounts: set[Account] = set()
        self._waiting: set[Account] = set()
        self._relieved: list[Account] = []
        self._floor = 0
        self._ceiling = 0
        self._judge()

    def __repr__(self) -> str:
        return (
            f"<MemoryBudget {self.pressure.name} held={self.held_bytes} "
            f"promised={self.promised_bytes} of {self.total_bytes}>"
        )

    def open(self, name: bytes, shed: Callable[[], None] | None = None) -> Account:
        """An account for the connection of that name, which closes it. `shed` ends its holder when
        that holds the most; it is for a holder that is no connection of this process."""
        account = Account(self, name, shed)
        self._accounts.add(account)
        return account

    @property
    def needs_attention(self) -> bool:
        """Whether `largest_holder` is to be closed, or `take_relieved` has accounts to return."""
        return bool(self._relieved) or self.pressure is Pressure.OVER

    def largest_holder(self) -> Account | None:
        """The account whose holder is to be closed; None while there is memory."""
        if self.pressure is not Pressure.OVER:
            return None
        return max(self._accounts, key=lambda account: account.held_bytes, default=None)

    def take_relieved(self) -> list[Account]:
        """The accounts that waited for credit and may have it now; each is returned once."""
        relieved, self._relieved = self._relieved, []
        return relieved

    # --- for accounts ---------------------------------------------------------------------------

    def _add_held(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        if not self._floor <= self.held_bytes < self._ceiling:
            self._judge()

    def _judge(self) -> None:
        bounds = [self.total_bytes * eighths // 8 for eighths in _EIGHTHS]
        pressure = max(level for level in Pressure if self.held_bytes >= bounds[level])
        self._floor = bounds[pressure] if pressure else -1
        self._ceiling = bounds[pressure + 1] if pressure < Pressure.OVER else 1 << 62
        self.pressure = pressure
        if pressure < Pressure.LOW:
            self._relieved += self._waiting
            self._waiting.clear()


class Account:
    """One connection's share of a budget."""

    __slots__ = ("budget", "held_bytes", "is_open", "kept_bytes", "name", "promised_bytes", "shed")

    def __init__(
        self, budget: MemoryBudget, name: bytes, shed: Callable[[], None] | None = None
    ) -> None:
        self.budget = budget
        self.name = name
        self.shed = shed
        self.is_open = True
        #: In all, and the part that is kept beside the connection.
        self.held_bytes = self.kept_bytes = 0
        self.promised_bytes = 0

    def __repr__(self) -> str:
        return f"<Account {self.name.hex()} held={self.held_bytes}>"

    def note(self, held_bytes: int, window_bytes: int) -> None:
        """Report at the end of a batch the bytes that the connection holds, and its receive
        window."""
        held_bytes += self.kept_bytes
        grown = held_bytes - self.held_bytes
        if grown:
            self.held_bytes = held_bytes
            self.budget._add_held(grown)
        promised_bytes = window_bytes - limits.CONNECTION_WINDOW_BYTES
        promised_bytes = promised_bytes if promised_bytes > 0 else 0
        if promised_bytes != self.promised_bytes:
            self.budget.promised_bytes += promised_bytes - self.promised_bytes
            self.promised_bytes = promised_bytes

    def keep(self, kept_bytes: int) -> None:
        """`kept_bytes` that the connection counts as consumed wait beside it for the program."""
        if self.is_open and kept_bytes != self.kept_bytes:
            grown = kept_bytes - self.kept_bytes
            self.kept_bytes = kept_bytes
            self.held_bytes += grown
            self.budget._add_held(grown)

    def close(self) -> None:
        """The connection is over, or another process's."""
        self.kept_bytes = 0
        self.note(0, 0)
        self.is_open = False
        self.budget._accounts.discard(self)
        self.budget._waiting.discard(self)

    @property
    def is_tight(self) -> bool:
        """Whether windows and buffers are to be small."""
        return self.budget.pressure is not Pressure.ENOUGH

    def may_credit(self, held_bytes: int) -> bool:
        """Whether a peer for which `held_bytes` are held may send more. If not, the account is
        among the relieved once it may."""
        budget = self.budget
        if (
            budget.pressure < Pressure.LOW
            or held_bytes + self.kept_bytes < limits.MIN_CONNECTION_WINDOW_BYTES
        ):
            return True
        budget._waiting.add(self)
        return False

    def window(self, present_bytes: int, wanted_bytes: int, least_bytes: int) -> int:
        """The receive window to go on with in place of the present one."""
        budget = self.budget
        if budget.pressure is not Pressure.ENOUGH:
            return min(present_bytes, least_bytes)
        own_bytes = max(present_bytes, limits.CONNECTION_WINDOW_BYTES)
        left_bytes = max(0, budget.total_bytes // 2 - budget.promised_bytes)
        return min(wanted_bytes, own_bytes + left_bytes)
