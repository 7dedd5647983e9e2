"""The certificate that clients are shown over TCP changes while others are connected."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
import uvloop

from quicbaton.asgi.tcp import TlsIdentity, tls_by_name, tls_identity
from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from tests.asgi.tcp_stage import Stage, serving

_REQUEST = b"GET /scope HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def renewed(tmp_path: Path) -> CertificateFiles:
    return write_self_signed(tmp_path, datetime.datetime.now(datetime.UTC))


async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The certificate that the program is told of."""
    writer.write(_REQUEST)
    await reader.readuntil(b"\r\n\r\n")
    chunk_bytes = int(await reader.readline(), 16)
    scope = literal_eval((await reader.readexactly(chunk_bytes)).decode())
    writer.close()
    return str(scope["extensions"]["tls"]["server_cert"])


def identity(files: CertificateFiles) -> TlsIdentity:
    return tls_identity(files.certificate, files.key)


async def test_new_clients_are_shown_the_new_certificate_and_requests_the_clients_own(
    certificate: CertificateFiles, renewed: CertificateFiles
) -> None:
    async with serving(certificate) as stage:
        early = await stage.connect("1.1")
        stage.server.show(identity(renewed))
        late = await stage._replace(certificate=renewed).connect("1.1")
        assert await told(*early) == certificate.certificate.read_text()
        assert await told(*late) == renewed.certificate.read_text()


def by_name(*entries: tuple[str, CertificateFiles]) -> TlsIdentity:
    return tls_by_name([([name], identity(files)) for name, files in entries])


@pytest.mark.parametrize("name", [None, "second.test"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_does_not_hide_a_new_certificate(
    certificate: CertificateFiles,
    renewed: CertificateFiles,
    version: ssl.TLSVersion,
    name: str | None,
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version

    def visit(
        stage: Stage, session: ssl.SSLSession | None, name: str | None = None
    ) -> tuple[ssl.SSLSession | None, bool | None, str]:
        with (
            socket.create_connection(("127.0.0.1", stage.port)) as plain,
            context.wrap_socket(plain, session=session, server_hostname=name) as tls,
        ):
            tls.sendall(_REQUEST)
            tls.recv(1)
            shown = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
            return tls.session, tls.session_reused, shown

    async def ask(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        return (await asyncio.to_thread(visit, stage, session, name))[0]

    async with serving(certificate) as stage:
        if name is not None:
            stage.server.show(by_name(("localhost", certificate), (name, certificate)))
        session = await ask(await ask(None))
        session, resumed, _ = await asyncio.to_thread(visit, stage, session, name)
        assert resumed
        new = identity(renewed)
        if name is not None:
            new = by_name(("localhost", certificate), (name, renewed))
        stage.server.show(new)
        _, resumed, shown = await asyncio.to_thread(visit, stage, session, name)
        assert not resumed
        assert shown == renewed.certificate.read_text()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
async def test_a_client_is_shown_the_certificate_that_fits_the_name_for_which_it_asks(
    certificate: CertificateFiles, tmp_path: Path, loop_factory: Any
) -> None:
    other = write_self_signed(tmp_path, datetime.datetime.now(datetime.UTC), ["*.other.test"])
    async with serving(certificate) as stage:
        stage.server.show(by_name(("localhost", certificate), ("*.other.test", other)))
        for name, shown in (
            ("www.other.test", other),
            ("localhost", certificate),
            ("elsewhere.test", certificate),
            ("", certificate),
        ):
            context = ssl.create_default_context(cafile=str(shown.certificate))
            context.check_hostname = False
            connection = await asyncio.open_connection(
                "127.0.0.1", stage.port, ssl=context, server_hostname=name
            )
            assert await told(*connection) == shown.certificate.read_text()
