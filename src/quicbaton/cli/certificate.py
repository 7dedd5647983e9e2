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
    files = CertificateFiles(folder / "cert.pem", folder / "key.pem")
    replace_self_signed(files, now, names)
    return files


def replace_self_signed(
    files: CertificateFiles, now: datetime.datetime, names: Sequence[str]
) -> None:
    """Put a new certificate for `names`, and its key, in the place of these files. A reader finds
    each of them whole, the old one or the new one."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _build(key, now, names)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _replace(files.key, pem, mode=0o600)
    _replace(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


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


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    """Write the file beside its place, closed to others from the start, then put it there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
