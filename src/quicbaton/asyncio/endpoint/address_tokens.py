"""An endpoint's proofs of clients' addresses (RFC 9000 §8.1): given out, and accepted once."""

from __future__ import annotations

import os
from time import time

from aioquic.quic.packet import encode_quic_retry

from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import ReplayGuard
from quicbaton.reasons import Reason
from quicbaton.routing.long_header import LongHeader
from quicbaton.routing.retry import (
    AddressTokenError,
    TokenKind,
    ValidatedAddress,
    counts,
    mint_new_token,
    mint_retry_token,
    validate_token,
)
from quicbaton.transport.state import Address


class AddressTokens:
    """Tokens that every node with the keys of `ring` accepts, each once by `guard`. With a guard of
    one process it is once in every process at most, which is limit enough for RFC 9000 §8.1.4."""

    def __init__(self, ring: KeyRing, guard: ReplayGuard) -> None:
        self._ring = ring
        self._guard = guard

    def validate(self, header: LongHeader, datagram: Datagram) -> ValidatedAddress | None:
        """The proof in the token, if it is good; raises AddressTokenError to refuse the client."""
        if not header.token:
            return None
        now = time()
        try:
            validated = validate_token(
                header.token,
                self._ring,
                now,
                address=datagram.remote,
                destination_id=header.destination_id,
            )
        except AddressTokenError as error:
            # RFC 9000 §8.1.2: a client with a wrong answer to a Retry ends here, since it accepts
            # no second one. §8.1.3: any other token that is not good counts as none. So does one
            # whose seal does not hold, which may be another server's of any kind.
            if error.kind is TokenKind.RETRY and error.code is not Reason.TOKEN_SEAL:
                raise
            return None
        return validated if counts(validated, self._guard, now) else None

    def retry(self, header: LongHeader, datagram: Datagram, retry_id: bytes) -> bytes:
        """The Retry packet that answers a client's Initial; its Source ID is `retry_id`."""
        token = mint_retry_token(
            self._ring,
            os.urandom,
            time(),
            address=datagram.remote,
            original_id=header.destination_id,
            retry_id=retry_id,
        )
        return encode_quic_retry(
            version=header.version,
            source_cid=retry_id,
            destination_cid=header.source_id,
            original_destination_cid=header.destination_id,
            retry_token=token,
        )

    def for_next_visit(self, address: Address) -> bytes:
        """A token for a NEW_TOKEN frame."""
        return mint_new_token(self._ring, os.urandom, time(), address=address)
