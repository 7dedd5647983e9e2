"""Certificates of clients (RFC 8446 §4.3.2), for a server that asks for them in its handshakes.

RFC 9001 §4.4 forbids to ask later. aioquic sends the request and checks that the client has the
key, as it does for servers. It does not look at what is certified: that is done here, as OpenSSL
does it for TCP: dates, signatures up to one of our authorities, and the purpose.

A server that asks resumes no sessions. A ticket would stand for a certificate that may have expired
meanwhile, or whose authority may not be trusted any more.
"""

from __future__ import annotations

from typing import Final

from aioquic._buffer import Buffer
from aioquic.tls import (
    Alert,
    AlertBadCertificate,
    AlertDescription,
    AlertUnsupportedCertificate,
    Context,
    State,
    verify_certificate,
)
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec import Struct

_CLIENTS: Final = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


#: What a client is told that has shown none.
NO_CLIENT_CERTIFICATE: Final = "No client certificate"


class AlertCertificateRequired(Alert):
    description = AlertDescription.certificate_required


class ClientCertificates(Struct, frozen=True):
    """What a server asks of its clients."""

    #: PEM of the authorities that may have issued their certificates.
    authorities: bytes
    #: Whether a client without a certificate is refused. One with a bad certificate always is.
    required: bool

    @classmethod
    def of(cls, pem: bytes, *, required: bool) -> ClientCertificates:
        """Those of the authorities in a PEM file, which may hold other things beside them.
        ValueError if it holds no certificate."""
        found = x509.load_pem_x509_certificates(pem)
        return cls(b"".join(one.public_bytes(Encoding.PEM) for one in found), required)

    def ask(self, tls: Context) -> None:
        """Have a server's `tls`, which has received nothing yet, ask its client."""
        tls._request_client_certificate = True
        tls.get_session_ticket_cb = tls.new_session_ticket_cb = None
        handle = tls._server_handle_certificate

        def handle_and_check(input_buf: Buffer) -> None:
            handle(input_buf)
            if tls.state is State.SERVER_EXPECT_CERTIFICATE_VERIFY:
                self._check(tls)
            elif self.required:
                # RFC 8446 §4.4.2.4: the client has sent an empty message.
                raise AlertCertificateRequired(NO_CLIENT_CERTIFICATE)

        tls._server_handle_certificate = handle_and_check  # type: ignore[method-assign]

    def _check(self, tls: Context) -> None:
        certificate = tls._peer_certificate
        assert certificate is not None, "TLS has parsed it"
        verify_certificate(certificate, chain=tls._peer_certificate_chain, cadata=self.authorities)
        try:
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return
        except ValueError as error:
            raise AlertBadCertificate("Certificate extensions could not be parsed") from error
        if not _CLIENTS & set(usage):
            raise AlertUnsupportedCertificate("Certificate is not for clients")
