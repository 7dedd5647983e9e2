"""The certificate that clients are shown over TCP changes while others are connected."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from ast import literal_eval
from pathlib import Path

import pytest

from quicbaton.asgi.tcp import tls_identity
from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from tests.asgi.tcp_stage import Stage, serving

_REQUEST = b"GET /scope HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def renewed(tmp_path: Path) -> CertificateFiles:
    return write_self_signed(tmp_path, datetime.datetime.now(datetime.UTC))


async def test_new_clients_are_shown_the_new_certificate_and_requests_the_clients_own(
    certificate: CertificateFiles, renewed: CertificateFiles
) -> None:
    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        chunk_bytes = int(await reader.readline(), 16)
        scope = literal_eval((await reader.readexactly(chunk_bytes)).decode())
        return str(scope["extensions"]["tls"]["server_cert"])

    async with serving(certificate) as stage:
        early = await stage.connect("1.1")
        stage.server.show(tls_identity(renewed.certificate, renewed.key))
        late = await stage._replace(certificate=renewed).connect("1.1")
        assert await told(*early) == certificate.certificate.read_text()
        assert await told(*late) == renewed.certificate.read_text()
        for _, writer in (early, late):
            writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_does_not_hide_a_new_certificate(
    certificate: CertificateFiles, renewed: CertificateFiles, version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version

    def visit(
        stage: Stage, session: ssl.SSLSession | None
    ) -> tuple[ssl.SSLSession | None, bool | None, str]:
        with (
            socket.create_connection(("127.0.0.1", stage.port)) as plain,
            context.wrap_socket(plain, session=session) as tls,
        ):
            tls.sendall(_REQUEST)
            tls.recv(1)
            shown = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
            return tls.session, tls.session_reused, shown

    async with serving(certificate) as stage:
        session, _, _ = await asyncio.to_thread(visit, stage, None)
        session, resumed, _ = await asyncio.to_thread(visit, stage, session)
        assert resumed
        stage.server.show(tls_identity(renewed.certificate, renewed.key))
        _, resumed, shown = await asyncio.to_thread(visit, stage, session)
        assert not resumed
        assert shown == renewed.certificate.read_text()
