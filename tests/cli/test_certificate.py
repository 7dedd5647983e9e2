"""The self-signed certificate for local use."""

import datetime
import ipaddress
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from quicbaton.cli.certificate import CertificateFiles, write_self_signed

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def _load(files: CertificateFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def test_certificate_names_the_loopback_in_every_form(tmp_path: Path) -> None:
    extensions = _load(write_self_signed(tmp_path, NOW)).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]


def test_key_belongs_to_the_certificate_and_is_closed_to_others(tmp_path: Path) -> None:
    files = write_self_signed(tmp_path, NOW)
    key = load_pem_private_key(files.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == _load(files).public_key()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_certificate_is_valid_now_and_may_sign_no_other(tmp_path: Path) -> None:
    certificate = _load(write_self_signed(tmp_path, NOW))
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca is False


def test_browsers_take_it_by_its_hash(tmp_path: Path) -> None:
    """On the terms of WebTransport's serverCertificateHashes."""
    certificate = _load(write_self_signed(tmp_path, NOW))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    validity = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert validity <= datetime.timedelta(days=14)


def test_writing_again_replaces_an_open_key_file(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("old")
    (tmp_path / "key.pem").chmod(0o644)
    files = write_self_signed(tmp_path, NOW)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
