"""A process that has not read everything that came: it judges no peer by what it has not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from quicbaton.asyncio import serve
from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.cli.certificate import CertificateFiles
from tests.asyncio.loopback import FileServer, http_client, server_configuration


@asynccontextmanager
async def serving(certificate: CertificateFiles) -> AsyncIterator[Endpoint]:
    configuration = server_configuration(certificate)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=FileServer)
    try:
        yield server.endpoint
    finally:
        server.close()


def client_of(endpoint: Endpoint, certificate: CertificateFiles) -> Any:
    return http_client(certificate, int(endpoint.udp.address[1]))


async def turns_until(done: Callable[[], object], *, most: int = 10_000) -> None:
    """Turns of the event loop until `done()`."""
    for _ in range(most):
        if done():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came to pass")


async def test_a_client_is_not_probed_while_datagrams_are_unread(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as endpoint, client_of(endpoint, certificate) as client:
        await client.get(10)
        (session,) = endpoint.sessions.values()
        looks = []

        def behind(_session: object) -> bool:
            looks.append(session.connection._state.recovery.pto_count)
            return False

        hear_all, endpoint.hear_all = endpoint.hear_all, behind  # type: ignore[method-assign]
        endpoint.stop()  # what the client answers stays in the socket
        session.connection.send_ping(1)
        session.transmit()
        await turns_until(lambda: len(looks) >= 3)
        assert looks == [0, 0, 0]
        endpoint.hear_all = hear_all  # type: ignore[method-assign]
        endpoint.udp.start()
        await turns_until(lambda: not session.connection.bytes_in_flight)
        assert session.connection._state.recovery.pto_count == 0


async def test_an_ack_in_the_socket_is_read_before_a_probe(certificate: CertificateFiles) -> None:
    async with serving(certificate) as endpoint, client_of(endpoint, certificate) as client:
        await client.get(10)
        (session,) = endpoint.sessions.values()
        await turns_until(lambda: not session.connection.bytes_in_flight)
        session.connection.send_ping(1)
        session.transmit()
        endpoint.udp._unwatch()  # as if the event loop had not come to it
        await turns_until(lambda: not session.connection.bytes_in_flight)
        assert session.connection._state.recovery.pto_count == 0
        endpoint.udp._watch()


async def test_what_the_program_writes_goes_though_a_probe_is_put_off(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as endpoint, client_of(endpoint, certificate) as client:
        await client.get(10)
        (session,) = endpoint.sessions.values()
        await turns_until(lambda: not session.connection.bytes_in_flight)
        connection = session.connection
        endpoint.hear_all = lambda _session: False  # type: ignore[method-assign]
        endpoint.udp.stop()
        connection.send_ping(1)
        session.transmit()
        session._timer.cancel()  # the event loop has been busy with others until the deadline
        session._timer = None
        await turns_until(lambda: connection.is_loss_due(monotonic()))
        sent = endpoint.udp.datagrams_sent
        connection.send_ping(2)
        session.transmit_soon()
        await turns_until(lambda: endpoint.udp.datagrams_sent > sent)
        assert connection._state.recovery.pto_count == 0
        endpoint.udp.start()


async def test_another_s_datagrams_in_line_put_no_probe_off(certificate: CertificateFiles) -> None:
    async with serving(certificate) as endpoint, client_of(endpoint, certificate) as client:
        await client.get(10)
        (session,) = endpoint.sessions.values()
        endpoint._turns._stand_in_line(endpoint._newcomers, [Datagram(b"x", (), (), 0)])
        assert endpoint.hear_all(session)
        endpoint._turns._stand_in_line(session, [Datagram(b"x", (), (), 0)])
        assert not endpoint.hear_all(session)
