"""`prepare` replaces what aioquic took from the operating system's randomness."""

from __future__ import annotations

import pytest
from aioquic.quic.packet import QuicFrameType
from aioquic.tls import AlertIllegalParameter

from quicbaton.errors import ConfigurationError
from quicbaton.handshake import prepare, ready
from quicbaton.limits import MAX_HANDSHAKE_MESSAGE_BYTES
from tests.handshake.aioquic_pair import CLIENT_CID, FIRST_DESTINATION, SERVER_CID, TOKEN, V1, Pair


def test_client_sees_the_prepared_id_and_reset_token() -> None:
    pair = Pair()
    pair.until_client_ready()
    known = pair.client._peer_cid
    assert (known.cid, known.sequence_number, known.stateless_reset_token) == (SERVER_CID, 0, TOKEN)
    assert pair.server._peer_cid.cid == CLIENT_CID
    assert pair.server.original_destination_connection_id == FIRST_DESTINATION


def test_aioquic_issues_no_ids_of_its_own() -> None:
    pair = Pair()
    pair.until_client_ready()
    for _ in range(3):
        pair.to_server(pair.from_client())
        pair.to_client(pair.from_server())
    assert pair.client._peer_cid_available == []
    assert pair.server._peer_cid_available == []


def test_client_with_an_empty_id_issues_none_and_its_server_stays_open() -> None:
    pair = Pair(client={"connection_id_length": 0})
    pair.until_client_ready()
    assert pair.server._peer_cid.cid == b""
    assert pair.server._close_event is None


def test_unprepared_client_with_an_empty_id_breaks_a_rule_that_prepare_keeps() -> None:
    # RFC 9000 §19.15: the reason why prepare() must stop aioquic from issuing IDs.
    pair = Pair(client={"connection_id_length": 0}, prepared=False)
    pair.connect()
    pair.until(lambda: pair.server._close_event is not None)
    assert pair.server._close_event is not None
    assert pair.server._close_event.frame_type == QuicFrameType.NEW_CONNECTION_ID


def test_prepare_after_the_first_datagram_is_refused() -> None:
    pair = Pair()
    pair.connect()
    with pytest.raises(ConfigurationError, match="first datagram"):
        prepare(pair.client, CLIENT_CID, b"")
    pair.to_server(pair.from_client())
    with pytest.raises(ConfigurationError, match="first datagram"):
        prepare(pair.server, SERVER_CID, TOKEN)


def test_wrong_lengths_are_refused() -> None:
    pair = Pair()
    with pytest.raises(ConfigurationError, match="configuration says 8"):
        prepare(pair.server, SERVER_CID + b"x", TOKEN)
    with pytest.raises(ConfigurationError, match="reset token"):
        prepare(pair.server, SERVER_CID, b"")
    with pytest.raises(ConfigurationError, match="reset token"):
        prepare(pair.client, CLIENT_CID, TOKEN)
    with pytest.raises(ConfigurationError, match="8 to 20"):
        prepare(pair.client, CLIENT_CID, b"", first_destination=b"short")
    with pytest.raises(ConfigurationError, match="only a client"):
        prepare(pair.server, SERVER_CID, TOKEN, first_destination=FIRST_DESTINATION)


def test_server_is_ready_in_the_datagram_that_completes_the_handshake() -> None:
    pair = Pair()
    pair.connect()
    assert not ready(pair.server)
    assert not ready(pair.client)
    pair.to_server(pair.from_client())
    assert not ready(pair.server)
    pair.to_client(pair.from_server())
    # The client has completed but not confirmed the handshake (RFC 9001 §4.1.2).
    assert pair.client._handshake_complete
    assert not ready(pair.client)
    pair.to_server(pair.from_client())
    assert ready(pair.server)
    pair.to_client(pair.from_server())
    assert ready(pair.client)


def test_connection_that_failed_on_the_way_is_never_ready() -> None:
    pair = Pair(client={"alpn_protocols": ["other"]})
    pair.connect()
    pair.until(lambda: pair.server._close_event is not None)
    assert not ready(pair.server)


def test_connection_closed_in_the_same_datagram_is_not_ready() -> None:
    pair = Pair()
    pair.until_server_ready()
    pair.server.close()
    assert not ready(pair.server)


def test_a_hello_that_never_ends_is_not_gathered() -> None:
    """Beyond the limit it ends the handshake; the work was linear so far."""
    pair = Pair(prepared=False)
    prepare(pair.server, SERVER_CID, TOKEN)
    pair.server._version = V1
    pair.server._initialize(FIRST_DESTINATION)
    tls, buffers = pair.server.tls, pair.server._crypto_buffers
    tls.handle_message(b"\x01\xff\xff\xff", buffers)
    for _ in range((MAX_HANDSHAKE_MESSAGE_BYTES - 4) // 1000):
        tls.handle_message(bytes(1000), buffers)
    with pytest.raises(AlertIllegalParameter):
        tls.handle_message(bytes(1000), buffers)
    assert len(tls._receive_buffer) <= MAX_HANDSHAKE_MESSAGE_BYTES
