"""What can be wrong with a baton: its sender's fault, and never repaired. Why none is made."""

from __future__ import annotations

from quicbaton.errors import PeerError, RefusedError
from quicbaton.reasons import Reason


class BatonError(PeerError):
    """A baton that is not accepted."""

    code = Reason.BATON


class BatonMalformedError(BatonError):
    """Not a baton, or cut off, or too big."""

    code = Reason.BATON_MALFORMED


class BatonVersionError(BatonError):
    """A format version that this release does not read."""

    code = Reason.FORMAT_UNKNOWN


class BatonSealError(BatonError):
    """The seal does not hold: changed on the way, or sealed under a key that we do not have.

    One error for all of these, on purpose: which one it was helps only an attacker.
    """

    code = Reason.BATON_SEAL


class BatonPrecopyError(BatonError):
    """The baton leaves out what should have come ahead of it, and has not."""

    code = Reason.BATON_PRECOPY


class BatonExpiredError(BatonError):
    """The baton is past its expiry, or from the future."""

    code = Reason.BATON_EXPIRED


class BatonAudienceError(BatonError):
    """The baton is meant for somebody else."""

    code = Reason.WRONG_AUDIENCE


class NeedsNewerFormatError(RefusedError):
    """The older format that was asked for cannot say what the connection has."""

    code = Reason.NEEDS_NEWER_FORMAT
