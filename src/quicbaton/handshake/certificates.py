"""The certificate that a server shows to new clients. It may change while the server runs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import Context
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

PrivateKey = (
    dsa.DSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | rsa.RSAPrivateKey
)


class Certificate(NamedTuple):
    """A server's certificate, those that lead from it to an authority, and its private key."""

    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    @classmethod
    def of(cls, configuration: QuicConfiguration) -> Certificate:
        """That of a server's configuration, which has one."""
        return cls(
            configuration.certificate,
            tuple(configuration.certificate_chain),
            configuration.private_key,
        )

    def within(self, configuration: QuicConfiguration) -> QuicConfiguration:
        """A configuration with this certificate, and otherwise like that one, without its logs."""
        return dataclasses.replace(
            configuration,
            certificate=self.leaf,
            certificate_chain=list(self.chain),
            private_key=self.key,
            quic_logger=None,
            secrets_log_file=None,
        )


class Certificates:
    """Those of an endpoint, whoever may replace them. A client whose ClientHello is processed is
    shown the one that is there then."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate

    def present(self, tls: Context) -> None:
        """Have a server's `tls`, which has not processed the ClientHello yet, show it."""
        shown = self.certificate
        tls.certificate = shown.leaf
        tls.certificate_chain = list(shown.chain)
        tls.certificate_private_key = shown.key
