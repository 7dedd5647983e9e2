"""An authority that issues certificates of clients, for tests."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import NamedTuple

from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


class Client(NamedTuple):
    """A client's certificate, those that lead to its authority, and its key."""

    chain: list[x509.Certificate]
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> list[str]:
        return [one.public_bytes(Encoding.PEM).decode() for one in self.chain]

    @property
    def der(self) -> list[bytes]:
        return [one.public_bytes(Encoding.DER) for one in self.chain]

    def configure(self, configuration: QuicConfiguration) -> QuicConfiguration:
        """Have a client of aioquic's show it when it is asked."""
        configuration.certificate, *configuration.certificate_chain = self.chain
        configuration.private_key = self.key
        return configuration

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The chain and the key, as PEM files."""
        files = folder / "client.pem", folder / "client.key"
        files[0].write_text("".join(self.pem))
        files[1].write_bytes(
            self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return files


class Authority:
    """Issues certificates, by itself or by another one that it has issued."""

    def __init__(self, name: str = "Authority", above: Authority | None = None) -> None:
        self._name = _named(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        issuer = above or self
        self.certificate = (
            _begin(self._name, issuer._name, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )
        self._is_root = above is None

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        name: str = "alice",
        *,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        age_days: int = 0,
    ) -> Client:
        """A certificate that was valid for a day from so many days ago on."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = _begin(_named(name), self._name, key, age_days)
        built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        if usage is not None:
            built = built.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        above = [] if self._is_root else [self.certificate]
        return Client([built.sign(self.key, hashes.SHA256()), *above], key)


def _named(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _begin(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, age_days: int = 0
) -> x509.CertificateBuilder:
    begins = datetime.datetime.now(datetime.UTC) - age_days * _DAY - _DAY / 24
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + _DAY)
    )
