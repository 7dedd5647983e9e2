"""Retry and NEW_TOKEN tokens and session tickets, as any client may send them.

The first byte says whether the rest is a token, or a ticket, or the text of a sealed ticket, which
another release of ours may have written.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quicbaton.handshake.tickets import Resumption, open_ticket, seal_ticket
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.retry import (
    AddressTokenError,
    TokenKind,
    mint_new_token,
    mint_retry_token,
    validate_token,
)
from tests.fuzz.fuzzing import Reader, at_most, only

_RING: Final = KeyRing(ClusterKey.generate(lambda size: b"\x07" * size))
_ADDRESS: Final = ("192.0.2.1", 4433)
_NOW: Final = 1_000_000.0
_CALLS: Final = 2_000


def target(data: bytes) -> None:
    reader = Reader(data)
    kind = reader.byte() % 3
    rest = reader.rest()
    with at_most(_CALLS):
        if kind == 0:
            with only(AddressTokenError):
                valid = validate_token(
                    rest, _RING, _NOW, address=_ADDRESS, destination_id=b"retry id"
                )
                assert valid.expires >= _NOW
                assert (valid.original_id == b"original id") is (valid.kind is TokenKind.RETRY)
        elif kind == 1:
            resumption = open_ticket(rest, _RING, _NOW)
            assert resumption is None or resumption == _resumption()
        else:
            open_ticket(_seal_text(rest), _RING, _NOW)


def _resumption() -> Resumption:
    return Resumption(
        issued_ms=int(_NOW * 1000),
        secret=bytes(32),
        cipher_suite=0x1301,
        age_add=7,
        server_name="localhost",
        alpn="h3",
        early_data=True,
        promise=bytes(32),
        certificate=bytes(32),
        shown_ms=int(_NOW * 1000),
    )


def _seal_text(text: bytes) -> bytes:
    """A ticket with this text: `seal_ticket` encodes what it is given."""
    return seal_ticket(_RING, _entropy, msgspec.Raw(text))  # type: ignore[arg-type]


def _entropy(size: int) -> bytes:
    return b"\x05" * size


def seeds() -> list[bytes]:
    retry = mint_retry_token(
        _RING,
        _entropy,
        _NOW,
        address=_ADDRESS,
        original_id=b"original id",
        retry_id=b"retry id",
    )
    later = mint_new_token(_RING, _entropy, _NOW, address=_ADDRESS)
    stale = mint_new_token(_RING, _entropy, 0.0, address=_ADDRESS)
    ticket = seal_ticket(_RING, _entropy, _resumption())
    text = msgspec.msgpack.encode(_resumption())
    return [
        *(b"\x00" + token for token in (retry, later, stale, b"", retry[:30])),
        *(b"\x01" + one for one in (ticket, ticket[:-1], b"")),
        *(
            b"\x02" + one
            for one in (text, text[:-1], text.replace(b"localhost", b"\xff\xfecalhost"))
        ),
    ]
