"""Certificates are replaced under running services."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
from pathlib import Path

import pytest
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from tests.cli.command_line import wait_for
from tests.supervisor.scraping import scrape
from tests.supervisor.service_home import Service, ServiceHome

pytestmark = pytest.mark.process

_PROGRAM = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})
"""
#: So many clients come to each of two workers, but for one try in some thousands.
_CLIENTS = 12


def made(folder: Path, *names: str) -> CertificateFiles:
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    return write_self_signed(folder, now, names or ("localhost",))


def end_of(files: CertificateFiles) -> datetime.datetime:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc


class Silent(QuicConnectionProtocol):
    """Makes no asyncio streams of the server's, which nobody would close."""

    def quic_event_received(self, event: QuicEvent) -> None:
        pass


async def shown_over_quic(port: int, name: str = "localhost") -> str:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name=name
    )
    connecting = connect("127.0.0.1", port, configuration=configuration, create_protocol=Silent)
    async with connecting as client:
        leaf = client._quic.tls._peer_certificate
        return leaf.public_bytes(Encoding.PEM).decode()


def shown(service: Service) -> set[str]:
    """To some clients, over QUIC and over TCP."""

    async def all_clients() -> list[str]:
        return await asyncio.gather(*(shown_over_quic(service.port) for _ in range(_CLIENTS)))

    over_tcp = {ssl.get_server_certificate(("127.0.0.1", service.port)) for _ in range(_CLIENTS)}
    return over_tcp | set(asyncio.run(all_clients()))


def test_every_worker_shows_a_renewed_certificate_without_a_reload(home: ServiceHome) -> None:
    """Swapped as certbot does it: the files are links."""
    old, new = made(home.path / "old"), made(home.path / "new")
    live = CertificateFiles(home.path / "cert.pem", home.path / "key.pem")
    live.certificate.symlink_to(old.certificate)
    live.key.symlink_to(old.key)
    (home.path / "program.py").write_text(_PROGRAM)
    service = home.service(2, "--app", "program:app", "--cert", live.certificate, "--key", live.key)
    before = service.pids()
    assert shown(service) == {old.certificate.read_text()}
    for link, target in ((live.certificate, new.certificate), (live.key, new.key)):
        beside = link.with_suffix(".new")
        beside.symlink_to(target)
        os.replace(beside, link)
    wait_for(lambda: shown(service), lambda found: found == {new.certificate.read_text()})
    assert service.pids() == before
    listed = {"name": "localhost", "not_after": end_of(new).isoformat()}
    wait_for(
        lambda: [worker["certificates"] for worker in service.status()],
        lambda found: found == [[listed], [listed]],
    )


def shown_over_tcp(port: int, name: str) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")


def test_each_name_is_shown_its_certificate(home: ServiceHome) -> None:
    one, two = made(home.path / "one", "one.test"), made(home.path / "two", "*.two.test")
    (home.path / "program.py").write_text(_PROGRAM)
    named = [part for files in (one, two) for part in ("--cert", files.certificate)]
    keys = [part for files in (one, two) for part in ("--key", files.key)]
    service = home.service(2, "--app", "program:app", *named, *keys)
    for name, files in (("one.test", one), ("www.two.test", two), ("else.test", one)):
        expected = files.certificate.read_text()
        assert asyncio.run(shown_over_quic(service.port, name)) == expected
        assert shown_over_tcp(service.port, name) == expected
    # The second is renewed alone.
    new = made(home.path / "new", "*.two.test")
    os.replace(new.key, two.key)
    os.replace(new.certificate, two.certificate)
    expected = two.certificate.read_text()
    wait_for(
        lambda: {asyncio.run(shown_over_quic(service.port, "a.two.test")) for _ in range(_CLIENTS)},
        lambda found: found == {expected},
    )
    assert asyncio.run(shown_over_quic(service.port, "one.test")) == one.certificate.read_text()


def test_figures_say_until_when_each_certificate_is_valid(home: ServiceHome) -> None:
    one, two = made(home.path / "one", "one.test"), made(home.path / "two", "two.test")
    named = [part for files in (one, two) for part in ("--cert", files.certificate)]
    keys = [part for files in (one, two) for part in ("--key", files.key)]
    service = home.service(2, "--metrics", "0", *named, *keys)
    url = service.wait_for("metrics")["url"]
    expected = {
        f'quicbaton_certificate_not_after_timestamp_seconds{{certificate="{name}",node="0",'
        f'worker="{worker}"}}': end_of(files).timestamp()
        for name, files in (("one.test", one), ("two.test", two))
        for worker in (0, 1)
    }

    def read() -> dict[str, float]:
        return {name: value for name, value in scrape(url).items() if "certificate" in name}

    wait_for(read, lambda samples: samples == expected)
    # Those of an old process and of the one that replaces it are not added.
    done = home.run("reload", service.control)
    assert done.returncode == 0, done.stderr
    assert read() == expected
