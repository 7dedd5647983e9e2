"""A program's certificates: replaced while it serves, and those of its clients."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio import QuicConnectionProtocol, connect, serve
from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from quicbaton.handshake import Certificate, Certificates, ClientCertificates
from tests.asyncio.loopback import client_configuration, server_configuration
from tests.client_authority import Authority, Client


def loaded(files: CertificateFiles) -> Certificate:
    configuration = QuicConfiguration(is_client=False)
    configuration.load_cert_chain(files.certificate, files.key)
    return Certificate.of(configuration)


async def test_certificates_are_replaced_and_clients_asked_while_a_program_serves(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    protocols: list[Any] = []

    def make(*arguments: Any, **options: Any) -> QuicConnectionProtocol:
        protocols.append(QuicConnectionProtocol(*arguments, **options))
        return protocols[-1]

    certificates = Certificates(loaded(certificate))
    server = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        certificates=certificates,
        create_protocol=make,
    )

    async def visit(trusted: CertificateFiles, known: Client | None = None) -> list[bytes]:
        configuration = client_configuration(trusted)
        if known is not None:
            known.configure(configuration)
        async with connect("localhost", server.port, configuration=configuration) as client:
            await client.ping()
        return list(protocols[-1]._quic.peer_certificates)

    authority = Authority()
    alice = authority.issue()
    assert await visit(certificate, alice) == []
    renewed = write_self_signed(tmp_path, datetime.now(UTC))
    asked = ClientCertificates.of(authority.pem, required=False)
    certificates.replace([loaded(renewed)], asked)
    assert await visit(renewed, alice) == alice.der
    assert await visit(renewed) == []
    server.close()
