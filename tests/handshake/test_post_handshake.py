"""Session tickets after promotion."""

from __future__ import annotations

import gc
import weakref

import pytest
from aioquic.tls import SessionTicket

from quicbaton.errors import TransportError
from quicbaton.handshake import ready
from tests.handshake.aioquic_pair import Pair


def promoted_with_ticket() -> tuple[Pair, bytes]:
    """A client promoted before its ticket came, and the ticket's message."""
    store: dict[bytes, SessionTicket] = {}
    pair = Pair(tickets=store)
    pair.until_server_ready()
    message = pair.promote_server().state.crypto.data
    # The server without its ticket: only HANDSHAKE_DONE reaches the client.
    sender = pair.server._crypto_streams[list(pair.server._crypto_streams)[-1]].sender
    sender.buffer_is_empty = True
    pair.until(lambda: ready(pair.client))
    return pair, message


def test_ticket_in_pieces_is_read_after_promotion_and_resumes() -> None:
    pair, message = promoted_with_ticket()
    tls = pair.promote_client().tls
    assert tls is not None
    assert tls.receive(message[:5]) == []
    (ticket,) = tls.receive(message[5:])
    store = pair.server._session_ticket_fetcher.__self__  # type: ignore[union-attr]
    assert ticket.ticket in store

    resumed = Pair(tickets=store, client={"session_ticket": ticket})
    resumed.until_server_ready()
    assert resumed.promote_server().state.session_resumed


def test_aioquics_connection_is_let_go_of() -> None:
    pair, _ = promoted_with_ticket()
    promotion = pair.promote_client()
    gone = weakref.ref(pair.client)
    del pair.client
    gc.collect()
    assert promotion.tls is not None
    assert gone() is None


def test_other_messages_close_the_connection() -> None:
    pair, _ = promoted_with_ticket()
    tls = pair.promote_client().tls
    assert tls is not None
    with pytest.raises(TransportError) as error:
        tls.receive(b"\x18\x00\x00\x01\x00")  # KeyUpdate, which QUIC forbids (RFC 9001 §6)
    assert error.value.error_code == 0x10A
