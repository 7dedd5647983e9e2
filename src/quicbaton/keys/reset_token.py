"""Stateless reset tokens: computed from the connection ID, so that none needs to be remembered.

RFC 9000 §10.3.2: a pseudorandom function of a static key and the connection ID, truncated to 16
bytes. The key is the cluster's, so a node that inherits a dead node's packets can reset its
connections.
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey, Purpose
from quicbaton.reasons import Reason

RESET_TOKEN_BYTES: Final = 16


def reset_token(key: ClusterKey, cid: bytes) -> bytes:
    """Return the 16-byte stateless reset token of connection ID `cid` under `key`."""
    if not cid:
        # RFC 9000 §10.3.2: an endpoint that uses this design cannot use a zero-length ID.
        raise ConfigurationError(
            "a zero-length connection ID has no reset token", code=Reason.EMPTY_ID
        )
    return key.sign(Purpose.RESET_TOKEN, cid)[:RESET_TOKEN_BYTES]
