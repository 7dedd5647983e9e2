"""Programs know their clients by certificates, over HTTP/3 and TCP, through a reload."""

from __future__ import annotations

import ast
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aioquic.asyncio import connect
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration

from tests.client_authority import Authority
from tests.client_authority import Client as Known
from tests.supervisor.aioquic_client import Client, come
from tests.supervisor.service_home import Service, ServiceHome

pytestmark = pytest.mark.process

AUTHORITY = Authority()
_PROGRAM = """
import os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    tls = scope["extensions"]["tls"]
    body = repr((os.getpid(), *(tls["client_cert_" + name] for name in ("chain", "name", "error"))))
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body.encode()})
"""


@pytest.fixture
def authority(home: ServiceHome) -> Path:
    """The authority's file; the program is there, too."""
    (home.path / "program.py").write_text(_PROGRAM)
    path = home.path / "clients.pem"
    path.write_bytes(AUTHORITY.pem)
    return path


def start(home: ServiceHome, authority: Path, *options: str) -> Service:
    return home.service(2, "--app", "program:app", "--client-ca", authority, *options)


def over_http3(home: ServiceHome, service: Service, known: Known | None) -> Any:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(str(home.ca))
    if known is not None:
        known.configure(configuration)
    return connect("127.0.0.1", service.port, configuration=configuration, create_protocol=Client)


async def ask(client: Client) -> Any:
    stream_id = client.request("/")
    await come(lambda: stream_id in client.ended or client.terminated)
    return ast.literal_eval(client.bodies[stream_id].decode())


@pytest.fixture
def over_tcp(home: ServiceHome) -> Callable[[Service, Known | None], Any]:
    def made(service: Service, known: Known | None) -> Any:
        context = ssl.create_default_context(cafile=str(home.ca))
        if known is not None:
            context.load_cert_chain(*known.write(home.path))
        with httpx.Client(http2=True, verify=context, timeout=60) as client:
            answer = client.get(f"https://localhost:{service.port}/")
            return ast.literal_eval(answer.text)

    return made


async def test_a_program_knows_its_client_before_and_after_a_reload(
    home: ServiceHome, authority: Path, over_tcp: Any
) -> None:
    service = start(home, authority)
    alice = AUTHORITY.issue("alice")
    expected = (alice.pem, "CN=alice,O=Tests", None)
    assert over_tcp(service, alice)[1:] == expected
    async with over_http3(home, service, alice) as client:
        before, *told = await ask(client)
        assert tuple(told) == expected
        done = home.run("reload", service.control, "--json")
        assert done.returncode == 0, done.stderr
        after, *told = await ask(client)
        assert after != before
        assert tuple(told) == expected


async def test_a_client_without_a_certificate_is_refused(
    home: ServiceHome, authority: Path, over_tcp: Any
) -> None:
    service = start(home, authority)
    with pytest.raises(httpx.TransportError):
        over_tcp(service, None)
    with pytest.raises(httpx.TransportError):
        over_tcp(service, Authority().issue())
    for stranger in (None, Authority().issue()):
        # The server's verdict comes after the client's handshake is complete.
        async with over_http3(home, service, stranger) as client:
            await come(lambda client=client: client.terminated)
            assert client.terminated.error_code > 0x100


async def test_a_client_may_come_without_a_certificate_where_it_is_optional(
    home: ServiceHome, authority: Path, over_tcp: Any
) -> None:
    service = start(home, authority, "--client-cert", "optional")
    assert over_tcp(service, None)[1:] == ([], None, None)
    async with over_http3(home, service, None) as client:
        assert (await ask(client))[1:] == ([], None, None)
    bob = AUTHORITY.issue("bob")
    assert over_tcp(service, bob)[1:] == (bob.pem, "CN=bob,O=Tests", None)
    with pytest.raises(httpx.TransportError):
        over_tcp(service, Authority().issue())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--client-ca", "nowhere.pem"), "nowhere.pem as the authorities of clients"),
        (("--client-ca", "empty.pem"), "empty.pem as the authorities of clients"),
        (("--client-cert", "optional"), "--client-ca FILE"),
    ],
)
def test_a_server_does_not_start_without_its_clients_authority(
    home: ServiceHome, options: tuple[str, ...], reason: str
) -> None:
    (home.path / "empty.pem").write_text("no certificate")
    done = home.run("check", home.files, *options)
    assert done.returncode == 1
    assert reason in done.stderr


def test_a_file_is_fetched_by_a_client_with_a_certificate(
    home: ServiceHome, authority: Path
) -> None:
    content = home.write("file.bin", 1000)
    server = home.serve("--client-ca", authority)
    ask = ("get", f"https://localhost:{server.port}/file.bin", "--ca", home.ca, "-o", "copy.bin")
    refused = home.run(*ask)
    assert refused.returncode == 1
    assert "--cert FILE --key FILE" in refused.stderr
    certificate, key = AUTHORITY.issue().write(home.path)
    assert home.run(*ask, "--cert", certificate).returncode == 1
    fetched = home.run(*ask, "--cert", certificate, "--key", key)
    assert fetched.returncode == 0, fetched.stderr
    assert (home.path / "copy.bin").read_bytes() == content
