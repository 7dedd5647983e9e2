"""The QUIC configuration of a server, and of a client that shows a certificate."""

from __future__ import annotations

from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from cryptography.exceptions import UnsupportedAlgorithm

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import ConfigurationError
from quicbaton.limits import CONNECTION_WINDOW_BYTES


def quic_configuration(files: CertificateFiles) -> QuicConfiguration:
    """The configuration for HTTP/3 with that certificate. ConfigurationError for files that hold
    none."""
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=H3_ALPN, max_data=CONNECTION_WINDOW_BYTES
    )
    load_certificate(configuration, files)
    return configuration


def load_certificate(configuration: QuicConfiguration, files: CertificateFiles) -> None:
    """Load a certificate and its key. ConfigurationError for files that hold none."""
    try:
        configuration.load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError, IndexError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"cannot use {files.certificate} with {files.key}: {error}; both must be PEM files, "
            "and the key without a password"
        ) from error
