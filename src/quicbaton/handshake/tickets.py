"""Session tickets that every node of a cluster can open, and that none has to remember.

    0x55 | key id (4) | ticket id (16) | AES-256-GCM(`Resumption`) | tag (16)

RFC 8446 §4.6.1 leaves a ticket's contents to the server. aioquic's are random bytes, with which the
application looks up its store. Ours hold everything. They are sealed under a key of their own,
derived from the cluster key and the random ticket id, so that one key seals one text. The ring
rotates them: a retired key still opens; a ticket of a dropped one leads to a full handshake.

A client that resumes is shown no certificate (RFC 8446 §2.2). So a ticket says which one its client
was shown, and when; tickets of resumed sessions say what the first one said. With another
certificate than that in its place, sessions are resumed for `REPLACED_CERTIFICATE_S` after it was
shown. Servers that show different certificates for one name thus resume each other's sessions for
as long, and none hides a new certificate for longer.

Resumption. The pre-shared key is used with (EC)DHE only. So a thief of the cluster key cannot read
recorded connections that were resumed, except their early data (§2.3, §8). We resume for the server
name and the protocol of the ticket only; with others the handshake is a full one.

Early data. An attacker that recorded a first flight can replay it (§8), to any node. It is accepted
only when all of these hold, and otherwise refused while the session is resumed:

* the endpoint has a `ReplayGuard`, for which this ticket's early data counts for the first time;
* the ticket's age as the client states it agrees with ours within `EARLY_DATA_WINDOW_S` (§8.3):
  so the guard has to remember it for twice that, not for the ticket's life;
* the process is no younger than that, or its guard remembers what its predecessor accepted (§8.2);
* the transport parameters that a client remembers (RFC 9000 §7.4.1) are still the same.

An endpoint without a guard offers tickets without early data (RFC 9001 §4.6.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aioquic._buffer import Buffer
from aioquic.quic.connection import MAX_EARLY_DATA
from aioquic.quic.packet import pull_quic_transport_parameters
from aioquic.tls import (
    CipherSuite,
    Context,
    Direction,
    Epoch,
    ExtensionType,
    NewSessionTicket,
    SessionTicket,
    push_new_session_ticket,
)
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct

from quicbaton.errors import InternalError
from quicbaton.keys.cluster_key import KEY_ID_BYTES, ClusterKey, Purpose
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import ReplayGuard
from quicbaton.limits import (
    BATON_CLOCK_SKEW_S,
    EARLY_DATA_WINDOW_S,
    REPLACED_CERTIFICATE_S,
    TICKET_LIFETIME_S,
)

TICKET_ID_BYTES: Final = 16

_KIND: Final = b"\x55"  # in release 0.2.0 it was 0x54
_ID_OFFSET: Final = 1 + KEY_ID_BYTES
_HEADER_BYTES: Final = _ID_OFFSET + TICKET_ID_BYTES
#: The longest server name and protocol, two secrets' worth of key, and what surrounds them.
_MAX_TICKET_BYTES: Final = 1024
_ZERO_NONCE: Final = bytes(12)  # one key seals one text
_PROMISE_BYTES: Final = 8
_CERTIFICATE_BYTES: Final = 16

#: The transport parameters that a client remembers for its early data (RFC 9000 §7.4.1, RFC 9221
#: §3).
_REMEMBERED: Final = (
    "active_connection_id_limit",
    "disable_active_migration",
    "initial_max_data",
    "initial_max_stream_data_bidi_local",
    "initial_max_stream_data_bidi_remote",
    "initial_max_stream_data_uni",
    "initial_max_streams_bidi",
    "initial_max_streams_uni",
    "max_datagram_frame_size",
    "max_idle_timeout",
    "max_udp_payload_size",
)


class Resumption(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A ticket's content. A new field needs a new `_KIND`: a ticket of an unknown kind is
    refused."""

    issued_ms: int  # Unix time
    secret: bytes  # the pre-shared key
    cipher_suite: int
    age_add: int
    server_name: str
    alpn: str
    early_data: bool
    promise: bytes  # digest of the transport parameters that the client remembers
    certificate: bytes  # digest of the certificate that the client was shown
    shown_ms: int  # when, as Unix time

    def __repr__(self) -> str:
        return f"Resumption(server_name={self.server_name!r}, alpn={self.alpn!r}, <redacted>)"


def seal_ticket(ring: KeyRing, entropy: Callable[[int], bytes], resumption: Resumption) -> bytes:
    """Return the ticket. `open_ticket` opens it wherever the same key is in the ring."""
    ticket_id = entropy(TICKET_ID_BYTES)
    if len(ticket_id) != TICKET_ID_BYTES:
        raise InternalError(f"entropy({TICKET_ID_BYTES}) gave {len(ticket_id)} bytes")
    header = _KIND + ring.active.key_id + ticket_id
    text = msgspec.msgpack.encode(resumption)
    return header + _cipher(ring.active, ticket_id).encrypt(_ZERO_NONCE, text, header)


def open_ticket(ticket: bytes, ring: KeyRing, now: float) -> Resumption | None:
    """Return the ticket's content; None for every ticket that is not ours or no longer good.

    A client with a bad ticket gets a full handshake and needs no reason. `now` is Unix time in
    seconds.
    """
    if not _HEADER_BYTES < len(ticket) <= _MAX_TICKET_BYTES or ticket[:1] != _KIND:
        return None
    header = ticket[:_HEADER_BYTES]
    key = ring.get(header[1:_ID_OFFSET])
    if key is None:
        return None
    try:
        text = _cipher(key, header[_ID_OFFSET:]).decrypt(_ZERO_NONCE, ticket[len(header) :], header)
        resumption = msgspec.msgpack.decode(text, type=Resumption)
    except (InvalidTag, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    age_s = now - resumption.issued_ms / 1000
    return resumption if -BATON_CLOCK_SKEW_S <= age_s <= TICKET_LIFETIME_S else None


class SessionTickets:
    """Gives tickets to clients and takes them back, for an endpoint."""

    def __init__(
        self,
        ring: KeyRing,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float],
        guard: ReplayGuard | None = None,
        early_data_from: float = 0.0,
    ) -> None:
        """`clock` gives Unix time in seconds. Without a `guard` there is no early data, and
        before the time `early_data_from` none is accepted."""
        self.ring = ring
        self.entropy = entropy
        self.clock = clock
        self.guard = guard
        self.early_data_from = early_data_from

    def __str__(self) -> str:
        """How early data is treated, in a few words for logs and reports."""
        if self.guard is None:
            return "off: a request goes with the client's Finished"
        return f"single use, counted by {self.guard.scope}"

    def attach(self, tls: Context) -> TicketExchange:
        """Take part in the handshake of a server's `tls`, which has received nothing yet."""
        return TicketExchange(self, tls)


class TicketExchange:
    """The tickets of one handshake: the client's, if it has one, and the new one that it gets.

    Attributes of aioquic's `Context` that are read: `_psk_key_exchange_mode`, `_server_name` (which
    `preparation` keeps there), `alpn_negotiated`, `certificate`, `handshake_extensions`,
    `session_resumed`; that are set:
    `early_data_accepted`; that are replaced: `get_session_ticket_cb`, `update_traffic_key_cb`,
    `_server_handle_finished`. `_build_session_ticket` is called.
    """

    def __init__(self, tickets: SessionTickets, tls: Context) -> None:
        self._tickets = tickets
        self._tls = tls
        self._hello_age = 0
        self._offered: tuple[bytes, Resumption] | None = None
        self._set_traffic_key = tls.update_traffic_key_cb
        self._finish = tls._server_handle_finished
        tls.get_session_ticket_cb = self._fetch
        tls.update_traffic_key_cb = self._update_traffic_key
        tls._server_handle_finished = self._handle_finished  # type: ignore[method-assign]

    def on_hello(self, ticket_age: int) -> None:
        """The client's first message has come, and TLS has not seen it yet. `ticket_age` is what it
        says of its ticket."""
        self._hello_age = ticket_age

    # --- called by TLS --------------------------------------------------------------------------

    def _fetch(self, label: bytes) -> SessionTicket | None:
        """The session of a client's ticket. TLS checks the binder next."""
        tls = self._tls
        now = self._tickets.clock()
        resumption = open_ticket(label, self._tickets.ring, now)
        if resumption is None:
            return None
        if (
            resumption.certificate != _digest(tls.certificate)
            and now - resumption.shown_ms / 1000 > REPLACED_CERTIFICATE_S
        ):
            return None
        if (resumption.server_name, resumption.alpn) != (
            tls._server_name or "",
            tls.alpn_negotiated or "",
        ):
            return None
        try:
            suite = CipherSuite(resumption.cipher_suite)
        except ValueError:
            return None
        self._offered = (label, resumption)
        issued_s = resumption.issued_ms / 1000
        return SessionTicket(
            age_add=resumption.age_add,
            cipher_suite=suite,
            # aioquic asks its own clock, too; other nodes' clocks may be ahead of it.
            not_valid_before=datetime.fromtimestamp(issued_s - BATON_CLOCK_SKEW_S, UTC),
            not_valid_after=datetime.fromtimestamp(issued_s + TICKET_LIFETIME_S, UTC),
            resumption_secret=resumption.secret,
            server_name=resumption.server_name,
            ticket=label,
        )

    def _update_traffic_key(
        self, direction: Direction, epoch: Epoch, suite: CipherSuite, secret: bytes
    ) -> None:
        """TLS has a new key. The key of early data comes after the binder has proved that the
        client has the ticket's secret, and before EncryptedExtensions says whether early data is
        accepted."""
        if epoch is Epoch.ZERO_RTT and not self._accepts_early_data():
            self._tls.early_data_accepted = False
            return
        self._set_traffic_key(direction, epoch, suite, secret)

    def _handle_finished(self, input_buf: Buffer, output_buf: Buffer) -> None:
        """Let TLS check the client's Finished, then give the client its ticket."""
        # aioquic would make a ticket only for a `new_session_ticket_cb`, which is not set.
        self._finish(input_buf, output_buf)
        if self._tls._psk_key_exchange_mode is not None:
            push_new_session_ticket(output_buf, self._issue())

    # --- helpers --------------------------------------------------------------------------------

    def _accepts_early_data(self) -> bool:
        tickets = self._tickets
        if self._offered is None or tickets.guard is None:
            return False
        label, resumption = self._offered
        now = tickets.clock()
        # RFC 8446 §8.3: the client adds `age_add` to its own count of milliseconds.
        stated_s = ((self._hello_age - resumption.age_add) & 0xFFFF_FFFF) / 1000
        off_s = now - resumption.issued_ms / 1000 - stated_s
        return (
            resumption.early_data
            and resumption.promise == _promise(self._tls)
            and abs(off_s) <= EARLY_DATA_WINDOW_S
            and now >= tickets.early_data_from
            # Last, since the guard counts this as a use.
            and tickets.guard.spend(
                label[_ID_OFFSET:_HEADER_BYTES], now + 2 * EARLY_DATA_WINDOW_S, now
            )
        )

    def _issue(self) -> NewSessionTicket:
        tls = self._tls
        tickets = self._tickets
        early_data = tickets.guard is not None
        now_ms = int(tickets.clock() * 1000)
        certificate, shown_ms = _digest(tls.certificate), now_ms
        if tls.session_resumed and self._offered is not None:
            _, first = self._offered
            certificate, shown_ms = first.certificate, first.shown_ms
        message = NewSessionTicket(
            ticket_lifetime=TICKET_LIFETIME_S,
            ticket_age_add=int.from_bytes(tickets.entropy(4), "big"),
            # One ticket per connection: its nonce need not distinguish it from others (§4.6.1).
            ticket_nonce=b"",
            max_early_data_size=MAX_EARLY_DATA if early_data else None,
        )
        session = tls._build_session_ticket(message, [])
        message.ticket = seal_ticket(
            tickets.ring,
            tickets.entropy,
            Resumption(
                issued_ms=now_ms,
                secret=session.resumption_secret,
                cipher_suite=int(session.cipher_suite),
                age_add=message.ticket_age_add,
                server_name=tls._server_name or "",
                alpn=tls.alpn_negotiated or "",
                early_data=early_data,
                promise=_promise(tls),
                certificate=certificate,
                shown_ms=shown_ms,
            ),
        )
        return message


def _cipher(key: ClusterKey, ticket_id: bytes) -> AESGCM:
    return AESGCM(key.derive(Purpose.SESSION_TICKET, ticket_id))


def _digest(certificate: x509.Certificate | None) -> bytes:
    """A digest of the server's certificate."""
    if certificate is None:
        raise InternalError("a server without a certificate has no sessions")
    return certificate.fingerprint(SHA256())[:_CERTIFICATE_BYTES]


def _promise(tls: Context) -> bytes:
    """A digest of the transport parameters that early data relies on."""
    promised: list[Any] = []
    for kind, data in tls.handshake_extensions:
        if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
            parameters = pull_quic_transport_parameters(Buffer(data=data))
            promised = [getattr(parameters, name) for name in _REMEMBERED]
    return hashlib.sha256(msgspec.msgpack.encode(promised)).digest()[:_PROMISE_BYTES]
