"""A server asks its clients for certificates, in aioquic's handshakes."""

from __future__ import annotations

import os
from time import time
from typing import Any

import pytest
from aioquic.tls import AlertDescription, AlertIllegalParameter
from cryptography.x509.oid import ExtendedKeyUsageOID

from quicbaton.handshake import (
    Certificate,
    Certificates,
    ClientCertificates,
    SessionTickets,
    prepare,
    ready,
)
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.limits import MAX_HANDSHAKE_MESSAGE_BYTES
from tests.client_authority import Authority, Client
from tests.handshake.aioquic_pair import SERVER_CID, TOKEN, Pair, certificate

#: RFC 9001 §4.8.
_CRYPTO_ERROR = 0x100

AUTHORITY = Authority()
BETWEEN = Authority("Between", above=AUTHORITY)


def tickets() -> SessionTickets:
    return SessionTickets(KeyRing(ClusterKey(b"key1", bytes(32))), os.urandom, time)


def meet(known: Client | None, *, required: bool = True, **options: Any) -> Pair:
    """A client with that certificate, not begun, and a server that asks for it."""
    leaf, key = certificate()
    asked = ClientCertificates.of(AUTHORITY.pem, required=required)
    pair = Pair(prepared=False, **options)
    if known is not None:
        known.configure(pair.client.configuration)
    certificates = Certificates(Certificate(leaf, (), key), clients=asked)
    prepare(pair.server, SERVER_CID, TOKEN, tickets=tickets(), certificates=certificates)
    return pair


def outcome(pair: Pair) -> int:
    """The code with which the server closes, and 0 when it does not."""
    pair.connect()
    pair.until(lambda: ready(pair.server) or pair.server._close_event is not None)
    event = pair.server._close_event
    return 0 if event is None else event.error_code


@pytest.mark.parametrize("issuer", [AUTHORITY, BETWEEN])
@pytest.mark.parametrize("required", [True, False])
def test_a_client_with_a_certificate_is_known_by_it(issuer: Authority, required: bool) -> None:
    client = issuer.issue()
    pair = meet(client, required=required)
    assert outcome(pair) == 0
    assert pair.promote_server().state.peer_certificates == client.der


def test_a_client_without_a_certificate_is_refused_where_one_is_required() -> None:
    pair = meet(None)
    assert outcome(pair) == _CRYPTO_ERROR + AlertDescription.certificate_required
    pair = meet(None, required=False)
    assert outcome(pair) == 0
    assert pair.promote_server().state.peer_certificates == []


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("client", "alert"),
    [
        (AUTHORITY.issue(age_days=3), AlertDescription.certificate_expired),
        (AUTHORITY.issue(age_days=-3), AlertDescription.certificate_expired),
        (Authority().issue(), AlertDescription.bad_certificate),
        (
            AUTHORITY.issue(usage=ExtendedKeyUsageOID.SERVER_AUTH),
            AlertDescription.unsupported_certificate,
        ),
        # The one in between is not sent.
        (
            BETWEEN.issue()._replace(chain=BETWEEN.issue().chain[:1]),
            AlertDescription.bad_certificate,
        ),
        # Stolen, without its key.
        (AUTHORITY.issue()._replace(key=AUTHORITY.issue().key), AlertDescription.decrypt_error),
    ],
    ids=["expired", "tomorrow's", "another's", "a server's", "half a chain", "stolen"],
)
def test_a_bad_certificate_is_refused(
    client: Client, alert: AlertDescription, required: bool
) -> None:
    assert outcome(meet(client, required=required)) == _CRYPTO_ERROR + alert


def test_a_certificate_for_any_use_and_one_that_says_nothing_of_it_are_for_clients() -> None:
    for usage in (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, None):
        assert outcome(meet(AUTHORITY.issue(usage=usage))) == 0


def test_a_server_that_asks_gives_no_tickets_and_takes_none() -> None:
    unasked = Pair(prepared=False)
    prepare(unasked.server, SERVER_CID, TOKEN, tickets=tickets())
    unasked.until_client_ready()
    unasked.to_client(unasked.from_server())
    (ticket,) = unasked.client_tickets
    client = AUTHORITY.issue()
    pair = meet(client, client={"session_ticket": ticket})
    assert outcome(pair) == 0
    assert not pair.server.tls.session_resumed
    assert pair.server.tls._peer_certificate == client.chain[0]
    pair.until(lambda: ready(pair.client))
    pair.to_client(pair.from_server())
    assert pair.client_tickets == []


def test_a_program_s_own_tickets_resume_no_session_where_a_certificate_is_asked_for() -> None:
    store: dict[bytes, Any] = {}
    asked = ClientCertificates.of(AUTHORITY.pem, required=True)
    leaf, key = certificate()

    def visit(clients: ClientCertificates | None, ticket: Any = None) -> Pair:
        pair = Pair(prepared=False, tickets=store, client={"session_ticket": ticket})
        AUTHORITY.issue().configure(pair.client.configuration)
        shown = Certificates(Certificate(leaf, (), key), clients=clients)
        prepare(pair.server, SERVER_CID, TOKEN, certificates=shown)
        pair.until_client_ready()
        pair.to_client(pair.from_server())
        return pair

    (ticket,) = visit(None).client_tickets
    assert visit(None, ticket).server.tls.session_resumed
    asking = visit(asked, ticket)
    assert not asking.server.tls.session_resumed
    assert asking.server.tls._peer_certificate is not None
    assert asking.client_tickets == []


def test_a_file_without_a_certificate_names_no_authority() -> None:
    with pytest.raises(ValueError):
        ClientCertificates.of(b"nothing", required=True)
    commented = b"# ours\n" + AUTHORITY.pem.rstrip() + b"\n# the end"
    assert ClientCertificates.of(commented, required=True).authorities == AUTHORITY.pem


def test_a_chain_that_never_ends_is_not_gathered() -> None:
    pair = meet(AUTHORITY.issue())
    pair.connect()
    pair.to_server(pair.from_client())
    tls, buffers = pair.server.tls, pair.server._crypto_buffers
    tls.handle_message(b"\x0b\xff\xff\xff", buffers)
    for _ in range((MAX_HANDSHAKE_MESSAGE_BYTES - 4) // 1000):
        tls.handle_message(bytes(1000), buffers)
    with pytest.raises(AlertIllegalParameter):
        tls.handle_message(bytes(1000), buffers)
    assert len(tls._receive_buffer) <= MAX_HANDSHAKE_MESSAGE_BYTES
