"""Errors of the test kit itself."""

from __future__ import annotations

from quicbaton.errors import CallerError, InternalError
from quicbaton.reasons import Reason


class StuckError(CallerError):
    """A run did not reach its goal: nothing is left to happen, or time is up."""

    code = Reason.STUCK


class SpinningError(InternalError):
    """A connection's timer fires again and again without time passing."""

    code = Reason.SPINNING


class NonceReuseError(InternalError):
    """Two different packets were protected with the same key and packet number."""

    code = Reason.NONCE_REUSE
