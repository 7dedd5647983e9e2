"""The right to send for a connection: terms and claims, decided in one place, the ledger."""

from quicbaton.ownership.claim import Claim
from quicbaton.ownership.ledger import Ledger, Operation, Ownership, Record

__all__ = ["Claim", "Ledger", "Operation", "Ownership", "Record"]
