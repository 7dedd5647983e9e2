"""Why a baton is not accepted, which is its sender's fault and never repaired; why none is made."""

from __future__ import annotations

from quicbaton.errors import PeerError, RefusedError
from quicbaton.reasons import Reason


class BatonError(PeerError):
    """A baton that is not accepted."""

    code = Reason.BATON


class BatonMalformedError(BatonError):
    """These bytes are not a baton, are cut off, or are too many."""

    code = Reason.BATON_MALFORMED


class BatonVersionError(BatonError):
    """This release does not read the baton's format version."""

    code = Reason.FORMAT_UNKNOWN


class BatonSealError(BatonError):
    """The seal does not hold: the baton was changed on its way, or sealed under a key that we do
    not have.

    These are one error on purpose: the difference would help only an attacker.
    """

    code = Reason.BATON_SEAL


class BatonPrecopyError(BatonError):
    """The baton leaves out bytes that should have come ahead of it and have not."""

    code = Reason.BATON_PRECOPY


class BatonExpiredError(BatonError):
    """The baton is past its expiry, or was issued in the future."""

    code = Reason.BATON_EXPIRED


class BatonAudienceError(BatonError):
    """The baton is meant for another process."""

    code = Reason.WRONG_AUDIENCE


class NeedsNewerFormatError(RefusedError):
    """The older format that was asked for cannot express the connection's state."""

    code = Reason.NEEDS_NEWER_FORMAT
