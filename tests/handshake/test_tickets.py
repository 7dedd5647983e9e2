"""Session tickets of a cluster: every node opens them, over rotations, and no stranger does."""

from __future__ import annotations

import dataclasses
import os
from time import time
from typing import Any

import msgspec
import pytest
from aioquic.tls import CipherSuite, SessionTicket
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError
from quicbaton.handshake import Certificates, SessionTickets, prepare, ready
from quicbaton.handshake.tickets import Resumption, open_ticket, seal_ticket
from quicbaton.keys.cluster_key import ClusterKey, Purpose
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import SpentTokens
from quicbaton.limits import (
    BATON_CLOCK_SKEW_S,
    EARLY_DATA_WINDOW_S,
    REPLACED_CERTIFICATE_S,
    TICKET_LIFETIME_S,
)
from quicbaton.transport.state import StreamDataEvent
from tests.handshake.aioquic_pair import SERVER_CID, TOKEN, V2, Pair
from tests.handshake.test_certificates import made

OLD = ClusterKey(b"old1", bytes(range(32)))
NEW = ClusterKey(b"new1", bytes(range(1, 33)))
RING = KeyRing(OLD)
NOW = 1_800_000_000.0
RESUMPTION = Resumption(
    issued_ms=int(NOW * 1000),
    secret=b"the pre-shared key of a session!",
    cipher_suite=int(CipherSuite.AES_128_GCM_SHA256),
    age_add=7,
    server_name="example.test",
    alpn="h3",
    early_data=False,
    promise=bytes(8),
    certificate=bytes(16),
    shown_ms=int(NOW * 1000),
)


class Clock:
    """Unix time of a test's own. aioquic has a clock of its own beside it, which is the real one:
    tests that resume begin near it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.now = time()
    return made


def node(clock: Clock, ring: KeyRing = RING, **options: Any) -> SessionTickets:
    """One process of the cluster, which knows nothing of tickets but the ring."""
    return SessionTickets(ring, os.urandom, clock, **options)


def visit(
    tickets: SessionTickets | None, ticket: SessionTicket | None = None, **options: Any
) -> Pair:
    """A client's connection to a server with these tickets, not begun."""
    client = {**options.pop("client", {}), "session_ticket": ticket}
    certificates = options.pop("certificates", None)
    pair = Pair(prepared=False, client=client, **options)
    prepare(pair.server, bytes(SERVER_CID), TOKEN, tickets=tickets, certificates=certificates)
    return pair


def first_ticket(tickets: SessionTickets, **options: Any) -> SessionTicket:
    """The ticket that a client gets on its first visit."""
    pair = visit(tickets, **options)
    pair.until_client_ready()
    pair.to_client(pair.from_server())
    assert not pair.server.tls.session_resumed
    (ticket,) = pair.client_tickets
    return ticket


def resumes(tickets: SessionTickets | None, ticket: SessionTicket, **options: Any) -> bool:
    """Whether a visit with the ticket resumes the session; the connection works in any case."""
    pair = visit(tickets, ticket, **options)
    pair.until_client_ready()
    assert pair.client.tls.session_resumed == pair.server.tls.session_resumed
    return pair.server.tls.session_resumed


def early(tickets: SessionTickets, ticket: SessionTicket, **options: Any) -> Pair:
    """A visit that puts its request into the first flight, up to promotion."""
    pair = visit(tickets, ticket, **options)
    pair.connect()
    pair.client.send_stream_data(0, b"GET early", end_stream=True)
    pair.until(lambda: ready(pair.server))
    return pair


# --- the sealed form --------------------------------------------------------------------------


def test_ticket_opens_where_its_key_is_in_the_ring() -> None:
    ticket = seal_ticket(RING, os.urandom, RESUMPTION)
    assert open_ticket(ticket, RING, NOW) == RESUMPTION
    assert open_ticket(ticket, RING.rotate(NEW), NOW) == RESUMPTION
    assert open_ticket(ticket, KeyRing(NEW), NOW) is None


def test_ticket_shows_nothing_and_is_never_the_same() -> None:
    first, second = (seal_ticket(RING, os.urandom, RESUMPTION) for _ in range(2))
    assert first[:5] == second[:5] == b"U" + OLD.key_id
    assert first[5:21] != second[5:21]
    assert first[21:] != second[21:]
    for secret in (RESUMPTION.secret, b"example.test"):
        assert secret not in first
    assert "pre-shared" not in repr(RESUMPTION)


@pytest.mark.parametrize(
    ("age_s", "opens"),
    [
        (0, True),
        (TICKET_LIFETIME_S, True),
        (TICKET_LIFETIME_S + 1, False),
        (-BATON_CLOCK_SKEW_S, True),
        (-BATON_CLOCK_SKEW_S - 1, False),
    ],
)
def test_ticket_lives_for_a_day(age_s: float, opens: bool) -> None:
    ticket = seal_ticket(RING, os.urandom, RESUMPTION)
    assert (open_ticket(ticket, RING, NOW + age_s) is not None) == opens


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_changed_ticket_is_nobodys(data: st.DataObject) -> None:
    ticket = bytearray(seal_ticket(RING, os.urandom, RESUMPTION))
    at = data.draw(st.integers(0, len(ticket) - 1))
    ticket[at] ^= data.draw(st.integers(1, 255))
    assert open_ticket(bytes(ticket), RING, NOW) is None


@given(st.binary(max_size=1100))
@settings(max_examples=100, deadline=None)
def test_strange_labels_are_nobodys(label: bytes) -> None:
    assert open_ticket(label, RING, NOW) is None
    assert open_ticket(b"U" + OLD.key_id + label, RING, NOW) is None


def test_a_ticket_of_release_0_2_leads_to_a_full_handshake() -> None:
    """It does not say which certificate its client was shown."""
    header = b"T" + OLD.key_id + bytes(16)
    text = msgspec.msgpack.encode(msgspec.structs.astuple(RESUMPTION)[:8])
    key = AESGCM(OLD.derive(Purpose.SESSION_TICKET, bytes(16)))
    assert open_ticket(header + key.encrypt(bytes(12), text, header), RING, NOW) is None


# --- resumption -------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384])
@pytest.mark.parametrize("version", [1, V2])
def test_session_begun_at_one_process_resumes_at_another(
    clock: Clock, cipher: CipherSuite, version: int
) -> None:
    ticket = first_ticket(node(clock), cipher=cipher, version=version)
    assert ticket.max_early_data_size is None
    assert resumes(node(clock), ticket, cipher=cipher, version=version)


def test_resumed_session_brings_a_new_ticket(clock: Clock) -> None:
    ticket = first_ticket(node(clock))
    pair = visit(node(clock), ticket)
    pair.until_client_ready()
    pair.to_client(pair.from_server())
    (second,) = pair.client_tickets
    assert second.ticket != ticket.ticket
    assert resumes(node(clock), second)


def test_ticket_outlives_a_rotation_and_ends_with_its_key(clock: Clock) -> None:
    ticket = first_ticket(node(clock))
    assert resumes(node(clock, RING.rotate(NEW)), ticket)
    assert not resumes(node(clock, KeyRing(NEW)), ticket)


def test_session_of_another_server_name_is_not_resumed(clock: Clock) -> None:
    ticket = first_ticket(node(clock))
    moved = dataclasses.replace(ticket, server_name="other.test")
    assert not resumes(node(clock), moved, client={"server_name": "other.test"})


def test_session_of_another_protocol_is_not_resumed(clock: Clock) -> None:
    ticket = first_ticket(node(clock))
    other = {"alpn_protocols": ["hq-interop"]}
    assert not resumes(node(clock), ticket, client=other, server=other)


def test_client_without_the_secret_gets_no_further_than_without_the_ticket(clock: Clock) -> None:
    ticket = first_ticket(node(clock))
    stolen = dataclasses.replace(ticket, resumption_secret=bytes(32))
    pair = visit(node(clock, guard=SpentTokens()), stolen)
    pair.connect()
    pair.to_server(pair.from_client())
    assert pair.server._close_event is not None  # RFC 8446 §4.2.11.2: the binder does not fit
    assert not ready(pair.server)


def test_server_without_tickets_gives_none(clock: Clock) -> None:
    pair = visit(None)
    pair.until_client_ready()
    pair.to_client(pair.from_server())
    assert pair.client_tickets == []


def test_promoted_connection_still_has_its_ticket_to_deliver(clock: Clock) -> None:
    # Right after the handshake the ticket is in aioquic's buffer: it moves with everything else.
    pair = visit(node(clock))
    pair.until_server_ready()
    crypto = pair.promote_server().state.crypto.data
    assert b"U" + OLD.key_id in crypto


# --- a certificate is replaced ----------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Certificates]:
    """Before the renewal, and after."""
    return [Certificates(made(tmp_path_factory.mktemp("made") / name)) for name in ("old", "new")]


@pytest.mark.parametrize(
    ("later_s", "resumed"),
    [(REPLACED_CERTIFICATE_S - 1, True), (REPLACED_CERTIFICATE_S + 1, False)],
)
def test_a_session_hides_a_new_certificate_for_no_longer_than_ten_minutes(
    clock: Clock, both: list[Certificates], later_s: float, resumed: bool
) -> None:
    old, new = both
    ticket = first_ticket(node(clock), certificates=old)
    clock.now += later_s
    assert resumes(node(clock), ticket, certificates=new) == resumed
    assert resumes(node(clock), ticket, certificates=old)


def test_resuming_again_and_again_does_not_hide_it_for_longer(
    clock: Clock, both: list[Certificates]
) -> None:
    old, new = both
    clock.now -= 2 * REPLACED_CERTIFICATE_S  # aioquic believes in no ticket of the future
    ticket = first_ticket(node(clock), certificates=old)
    clock.now += REPLACED_CERTIFICATE_S - 1
    pair = visit(node(clock), ticket, certificates=new)
    pair.until_client_ready()
    pair.to_client(pair.from_server())
    assert pair.server.tls.session_resumed
    (second,) = pair.client_tickets
    clock.now += 2
    pair = visit(node(clock), second, certificates=new)
    pair.until_client_ready()
    assert not pair.server.tls.session_resumed
    assert pair.client.tls._peer_certificate == new.all[0].leaf
    # From then on its sessions are of the new one.
    pair.to_client(pair.from_server())
    (third,) = pair.client_tickets
    clock.now += REPLACED_CERTIFICATE_S + 1
    assert resumes(node(clock), third, certificates=new)


# --- early data -------------------------------------------------------------------------------


def test_early_data_counts_once_wherever_the_guard_speaks(clock: Clock) -> None:
    guard = SpentTokens()
    ticket = first_ticket(node(clock, guard=guard))
    assert ticket.max_early_data_size == 0xFFFFFFFF
    pair = early(node(clock, guard=guard), ticket)
    state = pair.promote_server().state
    assert state.early_data_accepted
    assert StreamDataEvent(0, b"GET early", end_stream=True) in state.events
    # The same ticket again, at another process: resumed, but what it sends early is not read.
    again = early(node(clock, guard=guard), ticket)
    assert again.server.tls.session_resumed
    assert not again.server.tls.early_data_accepted
    again.until(lambda: ready(again.client))
    assert not again.client.tls.early_data_accepted


def test_request_in_refused_early_data_arrives_after_all(clock: Clock) -> None:
    ticket = first_ticket(node(clock, guard=SpentTokens()))
    pair = early(node(clock), ticket)
    assert pair.server.tls.session_resumed
    assert not pair.server.tls.early_data_accepted
    pair.until(lambda: 0 in pair.server._streams)


def test_ticket_from_before_early_data_was_on_has_none(clock: Clock) -> None:
    ticket = first_ticket(node(clock))
    forged = dataclasses.replace(ticket, max_early_data_size=0xFFFFFFFF)
    pair = early(node(clock, guard=SpentTokens()), forged)
    assert pair.server.tls.session_resumed
    assert not pair.server.tls.early_data_accepted


@pytest.mark.parametrize(
    ("late_s", "accepted"),
    [(0, True), (EARLY_DATA_WINDOW_S - 1, True), (EARLY_DATA_WINDOW_S + 1, False)],
)
def test_first_flight_that_was_held_back_is_not_early(
    clock: Clock, late_s: float, accepted: bool
) -> None:
    # RFC 8446 §8.3. The guard forgets it by then; the client states how old its ticket was.
    guard = SpentTokens()
    ticket = first_ticket(node(clock, guard=guard))
    pair = visit(node(clock, guard=guard), ticket)
    pair.connect()
    pair.client.send_stream_data(0, b"GET early", end_stream=True)
    flight = pair.from_client()
    clock.now += late_s
    pair.to_server(flight)
    assert pair.server.tls.early_data_accepted == accepted
    assert pair.server.tls.session_resumed


def test_young_process_accepts_no_early_data(clock: Clock) -> None:
    # RFC 8446 §8.2: what its predecessor accepted it cannot know.
    guard = SpentTokens()
    ticket = first_ticket(node(clock, guard=guard))
    young = node(clock, guard=guard, early_data_from=clock.now + 2 * EARLY_DATA_WINDOW_S)
    assert not early(young, ticket).server.tls.early_data_accepted
    old = node(clock, guard=guard, early_data_from=clock.now)
    assert early(old, ticket).server.tls.early_data_accepted


def test_early_data_under_another_promise_is_refused(clock: Clock) -> None:
    # RFC 9000 §7.4.1: the client sends by the limits that it remembers.
    guard = SpentTokens()
    ticket = first_ticket(node(clock, guard=guard))
    lower = early(node(clock, guard=guard), ticket, server={"max_data": 1 << 16})
    assert lower.server.tls.session_resumed
    assert not lower.server.tls.early_data_accepted


def test_endpoint_says_what_becomes_of_early_data(clock: Clock) -> None:
    assert str(node(clock)) == "off: a request goes with the client's Finished"
    assert str(node(clock, guard=SpentTokens())) == "single use, counted by this process"


# --- how it is wired in -----------------------------------------------------------------------


def test_tickets_beside_the_programs_own_are_refused(clock: Clock) -> None:
    pair = Pair(prepared=False, tickets={})
    with pytest.raises(ConfigurationError):
        prepare(pair.server, bytes(SERVER_CID), TOKEN, tickets=node(clock))
