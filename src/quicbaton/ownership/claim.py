"""The claim: proof that a connection's next term and one given baton are yours.

Only a `Ledger` makes one. A program cannot build, copy or pickle a claim. A link carries a message
that names it, and the destination's own ledger turns that message into a claim, once per term
(`Ledger.adopt`).
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Final, NoReturn

from quicbaton.errors import FencedError, InternalError
from quicbaton.reasons import Reason

#: Known only to this module; `mint_claim`, which the ledger calls, has it.
_MINT: Final = object()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send as `term` of a connection, from the state inside one baton."""

    connection_id: bytes
    term: int
    baton_id: bytes
    digest: bytes
    mint: InitVar[object]

    def __post_init__(self, mint: object) -> None:
        if mint is not _MINT:
            raise InternalError("only a ledger makes a claim: call Ledger.commit or Ledger.adopt")

    def check(
        self, *, connection_id: bytes, baton_term: int, baton_id: bytes, digest: bytes
    ) -> None:
        """Raise `FencedError` unless this claim is for exactly this opened baton.

        `baton_term` is the term in the baton's header, in which the connection was frozen: a claim
        is for the next term. Every thaw raises the term, so an old baton never fits a newer claim.
        """
        if self.connection_id != connection_id:
            raise FencedError("the claim is for another connection", code=Reason.WRONG_CONNECTION)
        if self.term != baton_term + 1 or self.baton_id != baton_id:
            raise FencedError(
                f"the claim is for term {self.term} and its baton, this baton was frozen in term "
                f"{baton_term}: discard it",
                code=Reason.SUPERSEDED,
            )
        if self.digest != digest:
            raise FencedError(
                "the baton's state is not the one claimed", code=Reason.DIGEST_MISMATCH
            )

    def __reduce__(self) -> NoReturn:
        raise InternalError("a claim does not leave its process: send the message that names it")


def mint_claim(connection_id: bytes, term: int, baton_id: bytes, digest: bytes) -> Claim:
    """Make a claim. Only the ledger calls this."""
    return Claim(connection_id, term, baton_id, digest, _MINT)
