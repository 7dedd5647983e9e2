"""A server tries a handshake with itself, before there are clients."""

from __future__ import annotations

import datetime
import ssl
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

#: Anything: no datagram of the handshake leaves the process.
_ADDRESS: Final = ("127.0.0.1", 443)
#: A handshake takes two; a certificate chain that fills many datagrams, a few more.
_ROUNDS: Final = 10


def prove(configuration: QuicConfiguration, files: CertificateFiles) -> None:
    """Shake hands with ourselves. ConfigurationError when the certificate is not valid now
    (`certificate_dates`), or no client could finish a handshake (`certificate_key`): the key may be
    another certificate's, since the two files are renewed one after the other."""
    certificate = configuration.certificate
    assert certificate is not None, "loaded before"
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= now <= ends:
        fault = f"expired at {ends}" if now > ends else f"is not valid before {begins}"
        raise ConfigurationError(
            f"the certificate {files.certificate} {fault}: renew it, or set the clock",
            code=Reason.CERTIFICATE_DATES,
        )
    why_not = _shake_hands(configuration)
    if why_not:
        raise ConfigurationError(
            f"no client can shake hands with {files.certificate} and {files.key}: {why_not}; see "
            "that the key is the certificate's",
            code=Reason.CERTIFICATE_KEY,
        )


def _shake_hands(configuration: QuicConfiguration) -> str:
    """The reason why the handshake failed; empty if it succeeded."""
    client = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True,
            alpn_protocols=configuration.alpn_protocols,
            server_name="localhost",
            verify_mode=ssl.CERT_NONE,  # clients decide which authority they trust
        )
    )
    server = QuicConnection(
        configuration=configuration,
        original_destination_connection_id=client.original_destination_connection_id,
    )
    now = 0.0
    client.connect(_ADDRESS, now)
    for _ in range(_ROUNDS):
        for sender, receiver in ((client, server), (server, client)):
            now += 0.001
            for data, _to in sender.datagrams_to_send(now):
                receiver.receive_datagram(data, _ADDRESS, now)
        while (event := client.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                return ""
            if isinstance(event, ConnectionTerminated):
                return event.reason_phrase or f"TLS alert {event.error_code - 0x100}"
        if (closing := client.get_timer()) is not None:
            now = max(now, closing)
            client.handle_timer(now)
    return "it does not end"
