"""The ledger: one process's record of which connections it owns, in which term.

Theory of operation
-------------------
Between the processes of one host the handoff source is the ownership store, and this is the store.
Each process has one ledger. A connection's record moves through these states:

    ABSENT ── own ─────────────────────────► OWNED(term)
    ABSENT, GIVEN ── adopt ────────────────► OWNED(term of the claim)
    OWNED ── freeze ───────────────────────► FROZEN(term)      nobody sends; no baton yet
    FROZEN ── bind ────────────────────────► SEALED(term)      one baton, by id and digest
    FROZEN, SEALED ── thaw ────────────────► OWNED(term + 1)   the term is raised first
    SEALED ── commit ──────────────────────► GIVEN(term + 1)   the claim is made, once
    GIVEN ── reissue ──────────────────────► GIVEN             the same claim, for the same handoff
    OWNED, FROZEN, SEALED, GIVEN ── close ─► CLOSED

Every other cell is a `FencedError`, and changes nothing. What follows from the table:

* A baton is either thawed over or committed, never both: both leave SEALED, and nothing leads back
  to the same term. A second commit of one baton finds GIVEN and is refused as `already_used`.
* A baton carries the term in which it was frozen. After a thaw the connection's term is higher, so
  that baton fits no claim made later; commit refuses it as `superseded`.
* A committed claim whose announcement was lost with its link may be asked for again, but only with
  the same handoff id: 16 secret bytes that name one attempt of one destination, which resumes at
  most once. No other attempt is ever answered, not even one in the same process.
* `adopt` is the same fence at the destination: it takes a connection in only with a term above
  all that it remembers, and only while it does not hold it.

GIVEN and CLOSED records are tombstones. They are bounded in number and age. Forgetting one is safe,
since a request for an unknown connection is refused. A forwarder's GIVEN record is also its
no-reset tombstone: a stateless reset is for connections that are CLOSED here, or of which the
supervisor knows that no process owns them.

A ledger holds no clock and does no I/O. The moment at which `commit` returns is the moment of
giving away: the caller destroys its sending keys next, before it announces anything.

With a shared store (`store`) the destination commits there. The ledgers keep their part. The
source's holds the connection SEALED until the outcome in the store is known, then commits or thaws
accordingly, in the same term. The destination's adopts it, once.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

import msgspec

from quicbaton.errors import FencedError
from quicbaton.limits import MAX_TOMBSTONES, TOMBSTONE_LIFETIME_S
from quicbaton.ownership.claim import Claim, mint_claim
from quicbaton.reasons import Reason


class Ownership(Enum):
    """The state of a connection in a ledger."""

    # Each member exists once, so where it lies is hash enough: an Enum's own is a call of Python
    # code, and every operation asks the table.
    __hash__ = object.__hash__

    ABSENT = "absent"
    OWNED = "owned"
    FROZEN = "frozen"
    SEALED = "sealed"
    GIVEN = "given"
    CLOSED = "closed"


class Operation(Enum):
    """The operations on a record."""

    __hash__ = object.__hash__

    OWN = "own"
    ADOPT = "adopt"
    FREEZE = "freeze"
    BIND = "bind"
    THAW = "thaw"
    COMMIT = "commit"
    REISSUE = "reissue"
    CLOSE = "close"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One connection's entry. A field that the state does not use is empty."""

    state: Ownership
    term: int
    #: FROZEN, SEALED: the only handoff that may claim, empty for any. GIVEN: the one that did.
    handoff_id: bytes = b""
    baton_id: bytes = b""
    digest: bytes = b""
    expires_us: int = -1


_ABSENT: Final = Record(Ownership.ABSENT, 0)
#: Nearly all connections share this one object: idle ones are many, and each byte of theirs counts.
_FIRST: Final = Record(Ownership.OWNED, 1)

_TRANSITIONS: Final = {
    (Ownership.ABSENT, Operation.OWN): Ownership.OWNED,
    (Ownership.ABSENT, Operation.ADOPT): Ownership.OWNED,
    (Ownership.GIVEN, Operation.ADOPT): Ownership.OWNED,
    (Ownership.OWNED, Operation.FREEZE): Ownership.FROZEN,
    (Ownership.FROZEN, Operation.BIND): Ownership.SEALED,
    (Ownership.FROZEN, Operation.THAW): Ownership.OWNED,
    (Ownership.SEALED, Operation.THAW): Ownership.OWNED,
    (Ownership.SEALED, Operation.COMMIT): Ownership.GIVEN,
    (Ownership.GIVEN, Operation.REISSUE): Ownership.GIVEN,
    (Ownership.OWNED, Operation.CLOSE): Ownership.CLOSED,
    (Ownership.FROZEN, Operation.CLOSE): Ownership.CLOSED,
    (Ownership.SEALED, Operation.CLOSE): Ownership.CLOSED,
    (Ownership.GIVEN, Operation.CLOSE): Ownership.CLOSED,
}

#: Why a claim is refused, by the state of the record where it is not SEALED or GIVEN.
_CLAIM_REFUSALS: Final = {
    Ownership.ABSENT: (Reason.NO_SUCH_CONNECTION, "this process has no record of the connection"),
    Ownership.OWNED: (
        Reason.SUPERSEDED,
        "the source serves the connection again: discard the baton",
    ),
    Ownership.FROZEN: (
        Reason.SUPERSEDED,
        "the source froze the connection anew: discard the baton",
    ),
    Ownership.SEALED: (Reason.SUPERSEDED, "no claim was made for this baton yet"),
    Ownership.GIVEN: (Reason.ALREADY_USED, "the claim was given away: a baton is good once"),
    Ownership.CLOSED: (Reason.CLOSED, "the connection is closed"),
}
#: The reason's code where an operation does not fit the record's state.
_UNFIT: Final = {
    Operation.OWN: Reason.IN_HAND,
    Operation.ADOPT: Reason.IN_HAND,
    Operation.FREEZE: Reason.NOT_OWNED,
}


class Ledger:
    """Terms and claims of one process's connections."""

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}
        #: GIVEN and CLOSED connections in the order in which they expire.
        self._tombstones: OrderedDict[bytes, None] = OrderedDict()

    def __repr__(self) -> str:
        counts = {state.value: 0 for state in Ownership if state is not Ownership.ABSENT}
        for record in self._records.values():
            counts[record.state.value] += 1
        return f"Ledger({', '.join(f'{state}={count}' for state, count in counts.items())})"

    def record(self, connection_id: bytes) -> Record:
        """The connection's record; one of state ABSENT when there is none."""
        return self._records.get(connection_id, _ABSENT)

    # --- the owner's ----------------------------------------------------------------------

    def own(self, connection_id: bytes, term: int = 1) -> None:
        """Enter a connection that began here."""
        _, state = self._next(connection_id, Operation.OWN)
        self._records[connection_id] = _FIRST if term == 1 else Record(state, term)

    def freeze(self, connection_id: bytes, handoff_id: bytes) -> int:
        """Bar the connection from sending; return its term, which the baton's header carries.

        `handoff_id` is the only attempt that may claim the baton, or empty when any may (a baton
        saved to a file).
        """
        record, state = self._next(connection_id, Operation.FREEZE)
        self._records[connection_id] = Record(state, record.term, handoff_id)
        return record.term

    def bind(self, connection_id: bytes, baton_id: bytes, digest: bytes) -> None:
        """Name the one baton that this freeze may be claimed with."""
        record, state = self._next(connection_id, Operation.BIND)
        self._records[connection_id] = Record(
            state, record.term, record.handoff_id, baton_id, digest
        )

    def thaw(self, connection_id: bytes) -> int:
        """Take the connection back; return the raised term. The baton is worthless from here on."""
        record, state = self._next(connection_id, Operation.THAW)
        term = record.term + 1
        self._records[connection_id] = Record(state, term)
        return term

    def close(self, connection_id: bytes, now_us: int) -> None:
        """The connection is over, here or at the process that has got it."""
        record, state = self._next(connection_id, Operation.CLOSE)
        self._settle(connection_id, Record(state, record.term), now_us)

    # --- giving and taking ----------------------------------------------------------------

    def commit(
        self, connection_id: bytes, baton_id: bytes, digest: bytes, handoff_id: bytes, now_us: int
    ) -> Claim:
        """Give the connection away, exactly once, to the handoff that has rebuilt this baton.

        Raises `FencedError` with the code `superseded`, `already_used`, `digest_mismatch`,
        `wrong_audience`, `closed` or `no_such_connection`, changing nothing.
        """
        record, state = self._next(connection_id, Operation.COMMIT)
        if record.handoff_id not in (b"", handoff_id):
            raise FencedError(
                "the baton was sealed for another handoff: ask from that one, or discard",
                code=Reason.WRONG_AUDIENCE,
            )
        _check_baton(record, baton_id, digest)
        term = record.term + 1
        self._settle(connection_id, Record(state, term, handoff_id, baton_id, digest), now_us)
        return mint_claim(connection_id, term, baton_id, digest)

    def reissue(
        self, connection_id: bytes, baton_id: bytes, digest: bytes, handoff_id: bytes
    ) -> Claim:
        """The claim committed earlier, for the handoff that it was committed to and no other.

        Raises `FencedError` as `commit` does.
        """
        record, _ = self._next(connection_id, Operation.REISSUE)
        _check_baton(record, baton_id, digest)
        if record.handoff_id != handoff_id:
            raise FencedError(
                "another handoff took this baton: a baton is good once", code=Reason.ALREADY_USED
            )
        return mint_claim(connection_id, record.term, baton_id, digest)

    def adopt(self, connection_id: bytes, term: int, baton_id: bytes, digest: bytes) -> Claim:
        """Take in, once, a connection that another process's ledger committed to us.

        Raises `FencedError` when this process holds the connection, or has held the term.
        """
        known, state = self._next(connection_id, Operation.ADOPT)
        if term <= known.term:
            raise FencedError(
                f"term {term} was claimed, but term {known.term} is already history here: stay "
                "silent",
                code=Reason.SUPERSEDED,
            )
        self._tombstones.pop(connection_id, None)
        self._records[connection_id] = Record(state, term)
        return mint_claim(connection_id, term, baton_id, digest)

    # --- housekeeping ---------------------------------------------------------------------

    def expire(self, now_us: int) -> int:
        """Forget tombstones whose time has passed. Returns how many."""
        expired = 0
        for connection_id in self._tombstones:
            if self._records[connection_id].expires_us > now_us:
                break
            expired += 1
        for _ in range(expired):
            self._forget_oldest()
        return expired

    def _next(self, connection_id: bytes, operation: Operation) -> tuple[Record, Ownership]:
        """The record, and the state after the operation, by the table; the typed error of a missing
        cell."""
        record = self.record(connection_id)
        current = record.state
        target = _TRANSITIONS.get((current, operation))
        if target is not None:
            return record, target
        if operation in (Operation.COMMIT, Operation.REISSUE):
            code, reason = _CLAIM_REFUSALS[current]
            raise FencedError(reason, code=code)
        raise FencedError(
            f"{operation.value} does not fit a connection that is {current.value} here",
            code=_UNFIT.get(operation, Reason.FENCED),
        )

    def _settle(self, connection_id: bytes, record: Record, now_us: int) -> None:
        expires_us = now_us + TOMBSTONE_LIFETIME_S * 1_000_000
        self._records[connection_id] = msgspec.structs.replace(record, expires_us=expires_us)
        self._tombstones.pop(connection_id, None)
        self._tombstones[connection_id] = None
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        connection_id, _ = self._tombstones.popitem(last=False)
        del self._records[connection_id]


def _check_baton(record: Record, baton_id: bytes, digest: bytes) -> None:
    if record.baton_id != baton_id:
        raise FencedError(
            "the source has sealed a newer baton: discard this", code=Reason.SUPERSEDED
        )
    if record.digest != digest:
        raise FencedError("the baton's state is not the one sealed", code=Reason.DIGEST_MISMATCH)
