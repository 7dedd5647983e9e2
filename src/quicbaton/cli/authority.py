"""A small certificate authority: it names the nodes of one cluster, and nothing else.

EC P-256 throughout. A node's certificate is for both sides of TLS, and names the node in a URI
(`quicbaton:node:NAME`). The authority may sign no further authorities.
"""

from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.service.peers.cluster import CA_FILE, NODE_URI_PREFIX, NODES_FOLDER

CA_KEY_FILE: Final = "ca-key.pem"
_CA_LIFETIME: Final = datetime.timedelta(days=3650)
_NODE_LIFETIME: Final = datetime.timedelta(days=730)
#: Clocks of hosts may be hours apart.
_SKEW: Final = datetime.timedelta(days=1)
_NO_USE: Final = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


class Authority:
    """The CA of a cluster folder, with its private key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, folder: Path, now: datetime.datetime) -> Authority:
        """Make an authority; its files go into `folder`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quicbaton cluster")])
        certificate = (
            _builder(name, name, key.public_key(), key.public_key(), now, _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**(_NO_USE | {"key_cert_sign": True})), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(folder / CA_KEY_FILE, _pem_of_key(key))
        (folder / CA_FILE).write_bytes(_pem_of(certificate))
        return cls(key, certificate)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Read the authority in `folder`. ConfigurationError when its key is missing or not
        private."""
        path = folder / CA_KEY_FILE
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ConfigurationError(
                    f"{path} can name nodes and others may read it: chmod 600 {path}; if somebody "
                    "may have read it, make a new cluster",
                    code=Reason.NOT_PRIVATE,
                )
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((folder / CA_FILE).read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"cannot use {path}: {error}; nodes are added where `quicbaton keys init` ran",
                code=Reason.CERTIFICATES,
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{path} is not an EC key", code=Reason.CERTIFICATES)
        return cls(key, certificate)

    def issue(self, folder: Path, node: str, now: datetime.datetime) -> None:
        """Make a node's key and certificate in `folder`, in place of any that it has."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        uses = x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        uri = x509.UniformResourceIdentifier(NODE_URI_PREFIX + node)
        issuer = self._certificate.subject
        lifetime = min(_NODE_LIFETIME, self._certificate.not_valid_after_utc - now)
        certificate = (
            _builder(subject, issuer, key.public_key(), self._key.public_key(), now, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**(_NO_USE | {"digital_signature": True})), critical=True)
            .add_extension(uses, critical=False)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        nodes = folder / NODES_FOLDER
        nodes.mkdir(mode=0o700, exist_ok=True)
        write_private(nodes / f"{node}-key.pem", _pem_of_key(key))
        (nodes / f"{node}.pem").write_bytes(_pem_of(certificate))


def write_private(path: Path, content: bytes) -> None:
    """Put a file in place that no other user can read, complete from its first moment on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer_public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    # RFC 5280 §4.2.1.1 and §4.2.1.2 want both key identifiers; OpenSSL in strict mode checks it.
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False
        )
    )


def _pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
