"""What can be wrong with a baton. All of it is the peer's or the file's fault, never repaired."""

from __future__ import annotations

from quicbaton.errors import PeerError


class BatonError(PeerError):
    """A baton that is not accepted."""

    code = "baton"


class BatonMalformedError(BatonError):
    """Not a baton, or cut off, or too big."""

    code = "baton_malformed"


class BatonVersionError(BatonError):
    """A format version that this release does not read."""

    code = "baton_version"


class BatonSealError(BatonError):
    """The seal does not hold: changed on the way, or sealed under a key that we do not have.

    One error for all of these, on purpose: which one it was helps only an attacker.
    """

    code = "baton_seal"


class BatonPrecopyError(BatonError):
    """The baton leaves out what should have come ahead of it, and has not."""

    code = "baton_precopy"


class BatonExpiredError(BatonError):
    """The baton is past its expiry, or from the future."""

    code = "baton_expired"


class BatonAudienceError(BatonError):
    """The baton is meant for somebody else."""

    code = "baton_audience"
