"""TLS after the handshake: a promoted client takes session tickets (RFC 8446 §4.6)."""

from __future__ import annotations

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import CRYPTO_BUFFER_SIZE, MAX_EARLY_DATA, QuicConnection

from quicbaton.errors import TransportError
from quicbaton.transport.frames import CRYPTO, PROTOCOL_VIOLATION

#: RFC 9001 §4.8: a TLS alert closes with this plus the alert's number.
_CRYPTO_ERROR = 0x100


class PostHandshakeTls:
    """Reads post-handshake CRYPTO data, beside a promoted client's connection.

    It is derived state: it holds aioquic's TLS context and does not move. A client connection that
    is moved goes on without it, and only loses the chance of further session tickets. A server has
    none, since no client may send CRYPTO data after the handshake.
    """

    def __init__(self, context: tls.Context) -> None:
        self._context = context
        self._tickets: list[tls.SessionTicket] = []
        # The context's callbacks are methods of the QuicConnection, which must not be kept alive.
        context.alpn_cb = None
        context.get_session_ticket_cb = None
        context.update_traffic_key_cb = _refuse_traffic_key
        context.new_session_ticket_cb = self._on_ticket
        self._output = {
            epoch: Buffer(capacity=CRYPTO_BUFFER_SIZE)
            for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT)
        }

    def receive(self, data: bytes) -> list[tls.SessionTicket]:
        """Feed the next CRYPTO bytes in order. Returns the session tickets that they complete.

        Raises TransportError for bytes that TLS refuses, and for every message but NewSessionTicket
        (RFC 9001 §4.4 forbids post-handshake authentication, §6 KeyUpdate).
        """
        try:
            self._context.handle_message(data, self._output)
        except tls.Alert as alert:
            raise TransportError(
                _CRYPTO_ERROR + int(alert.description), str(alert), CRYPTO
            ) from alert
        tickets = self._tickets
        self._tickets = []
        return tickets

    def _on_ticket(self, ticket: tls.SessionTicket) -> None:
        # RFC 9001 §4.6.1: any other value is a PROTOCOL_VIOLATION.
        if ticket.max_early_data_size not in (None, MAX_EARLY_DATA):
            raise TransportError(PROTOCOL_VIOLATION, "a ticket's max_early_data_size", CRYPTO)
        self._tickets.append(ticket)


def of_client(quic: QuicConnection) -> PostHandshakeTls | None:
    """Take the TLS context out of a client's `quic`; None for a server."""
    return PostHandshakeTls(quic.tls) if quic.configuration.is_client else None


def _refuse_traffic_key(
    direction: tls.Direction, epoch: tls.Epoch, cipher: tls.CipherSuite, secret: bytes
) -> None:
    raise TransportError(PROTOCOL_VIOLATION, "TLS changed keys after the handshake", CRYPTO)
