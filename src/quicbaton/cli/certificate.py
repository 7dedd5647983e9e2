"""A self-signed certificate for local use: `serve` without one, the demo, tests, benchmarks."""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

#: For WebTransport browsers accept a certificate by its hash if it is valid for 14 days at most.
#: https://www.w3.org/TR/webtransport/#dom-webtransportoptions-servercertificatehashes
_LIFETIME = datetime.timedelta(days=13)
#: Clocks of client and server may differ a little.
_SKEW = datetime.timedelta(hours=1)


class CertificateFiles(msgspec.Struct, frozen=True):
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


def write_self_signed(
    folder: Path, now: datetime.datetime, names: Sequence[str] = LOCAL_NAMES
) -> CertificateFiles:
    """Write `cert.pem` and `key.pem` (mode 0600, EC P-256) into `folder`.

    `names` are host names and addresses. A client trusts the certificate by taking `cert.pem` as
    its CA file: the certificate is its own issuer and may sign nothing else.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _build(key, now, names)
    files = CertificateFiles(folder / "cert.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_private(
        files.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return files


def _build(
    key: ec.EllipticCurvePrivateKey, now: datetime.datetime, names: Sequence[str]
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_private(path: Path, content: bytes) -> None:
    """Create the file readable for its owner alone from the start."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
