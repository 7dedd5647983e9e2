"""The timeouts of the two sides of a handoff."""

from __future__ import annotations

import msgspec

from quicbaton.errors import ConfigurationError
from quicbaton.limits import (
    BATON_LIFETIME_S,
    HANDOFF_ASK_S,
    HANDOFF_DOUBT_S,
    HANDOFF_FORWARD_S,
    HANDOFF_FROZEN_S,
    HANDOFF_OFFER_S,
    HANDOFF_PROXY_LOST_S,
    HANDOFF_READY_S,
)
from quicbaton.reasons import Reason


class Waits(msgspec.Struct, frozen=True):
    """Timeouts in seconds. The reasons of the defaults are in `limits`."""

    offer_s: float = HANDOFF_OFFER_S
    frozen_s: float = HANDOFF_FROZEN_S
    ready_s: float = HANDOFF_READY_S
    ask_s: float = HANDOFF_ASK_S
    forward_s: float = HANDOFF_FORWARD_S
    proxy_lost_s: float = HANDOFF_PROXY_LOST_S
    #: How long a connection stays frozen for a baton in a file.
    saved_s: float = BATON_LIFETIME_S
    doubt_s: float = HANDOFF_DOUBT_S

    def __post_init__(self) -> None:
        if min(msgspec.structs.astuple(self)) <= 0 or self.ready_s <= self.frozen_s:
            raise ConfigurationError(
                "handoff waits are positive, and a destination waits longer than its source: "
                f"got ready_s={self.ready_s}, frozen_s={self.frozen_s}",
                code=Reason.HANDOFF_WAITS,
            )


#: The values of `limits`.
DEFAULT_WAITS = Waits()
