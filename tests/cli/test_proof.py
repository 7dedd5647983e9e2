"""A server shakes hands with itself before it serves."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from quicbaton.cli.configuration import quic_configuration
from quicbaton.cli.proof import prove
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

NOW = datetime.datetime.now(datetime.UTC)


def proved(files: CertificateFiles) -> QuicConfiguration:
    configuration = quic_configuration(files)
    prove(configuration, files)
    return configuration


def test_a_certificate_with_its_key_is_proved(tmp_path: Path) -> None:
    configuration = proved(write_self_signed(tmp_path, NOW))
    configuration.alpn_protocols = ["doq"]
    prove(configuration, CertificateFiles(Path("c"), Path("k")))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65_537, 2048),
    ],
    ids=["of the same kind", "another curve", "another kind"],
)
def test_a_key_of_another_certificate_is_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    files = write_self_signed(tmp_path, NOW)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files.key.write_bytes(pem)
    with pytest.raises(ConfigurationError, match="that the key is the certificate's") as refused:
        proved(files)
    assert refused.value.code is Reason.CERTIFICATE_KEY


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (NOW - datetime.timedelta(days=14), "expired at"),
        (NOW + datetime.timedelta(days=1), "is not valid before"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_refused(
    tmp_path: Path, made: datetime.datetime, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as refused:
        proved(write_self_signed(tmp_path, made))
    assert refused.value.code is Reason.CERTIFICATE_DATES
