"""Every error quicbaton raises, one root, sorted by whose fault it is.

* `CallerError`: the program that called us asked for something it may not have.
* `PeerError`: bytes from a wire or a file are not acceptable.
* `FencedError`: another process owns the connection; staying silent is the right answer.
* `InternalError`: a rule of our own was about to be broken; the action was not carried out.

Each carries a machine-readable `code`, a `Reason`. The message says what was expected, what came,
and what to do.
"""

from __future__ import annotations

from quicbaton.reasons import Reason


class QuicbatonError(Exception):
    """Root of all errors that quicbaton raises."""

    code = Reason.ERROR

    def __init__(self, message: str, *, code: Reason | None = None) -> None:
        super().__init__(message)
        if code is not None:
            # A program without mypy may have given a text: ValueError unless it is a reason's code.
            self.code = Reason(code)


class CallerError(QuicbatonError):
    """The calling program's mistake."""

    code = Reason.CALLER


class PeerError(QuicbatonError):
    """A peer, a file or a message broke its format or its rules."""

    code = Reason.PEER


class FencedError(QuicbatonError):
    """The connection, term or baton belongs to another process now."""

    code = Reason.FENCED


class InternalError(QuicbatonError):
    """One of our own invariants would have been broken."""

    code = Reason.INTERNAL


# --- the caller's -----------------------------------------------------------------------------


class RefusedError(CallerError):
    """The connection cannot be moved faithfully; it stays with its owner unharmed.

    `code` names the reason, for instance `cutover_pending` or `not_exportable`.
    """

    code = Reason.REFUSED


class ConfigurationError(CallerError):
    """A setting is missing, contradictory or out of range."""

    code = Reason.CONFIGURATION


class StreamStateError(CallerError):
    """The stream does not exist, or is not in a state that allows the call."""

    code = Reason.STREAM_STATE


class GivenAwayError(FencedError):
    """A snapshot of this connection was taken for a handoff: the object is spent."""

    code = Reason.GIVEN_AWAY


class SecondSenderError(FencedError):
    """Another process sends with this connection's keys: be silent for good."""

    code = Reason.SECOND_SENDER


# --- the QUIC peer's --------------------------------------------------------------------------


class TransportError(PeerError):
    """The QUIC peer broke a rule. It closes the connection with a code of RFC 9000 §20.1.

    `error_code` is the code to send, `frame_type` the offending frame's type or 0.
    """

    code = Reason.TRANSPORT

    def __init__(self, error_code: int, reason: str, frame_type: int = 0) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.frame_type = frame_type
        self.reason = reason
