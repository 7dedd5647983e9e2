"""Sessions that have been quiet let go of what can be made again, and go on at the next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.limits import DOZE_AFTER_S
from quicbaton.service.node.bulk import BulkHandoff, OwnConnections
from tests.asyncio.loopback import FileServer, body_of, digest, each_client, http_client
from tests.asyncio.test_draining import nowhere
from tests.asyncio.test_sleep import GUARD_S, start, the_session
from tests.moves.dozing import kinds_held


async def has_nothing_to_do(session: Session) -> None:
    """Wait for the client's last ACK, and for ours to it."""
    async with asyncio.timeout(GUARD_S):
        while session.connection.why_awake(monotonic()) is not None:
            await asyncio.sleep(0.005)


def after_a_pause(session: Session) -> None:
    """As if `DOZE_AFTER_S` had gone by, and the session's timer had fired."""
    session.connection._origin_s -= DOZE_AFTER_S
    session._on_timer()


@asynccontextmanager
async def idle_session(certificate: CertificateFiles) -> AsyncIterator[Session]:
    """The session of a client that has been answered once."""
    server = await start(certificate, sleep_after_s=0)
    async with http_client(certificate, server.port) as client:
        await client.get(10)
        yield the_session(server)
    server.close()


@each_client
async def test_a_quiet_session_dozes_and_answers_the_next_request(
    kind: str, certificate: CertificateFiles
) -> None:
    server = await start(certificate, sleep_after_s=0)
    async with http_client(certificate, server.port, kind) as client:
        for _ in range(3):
            for _ in range(3):  # so that HTTP/3 remembers the request
                assert digest(await client.get(10_000)) == digest(body_of(10_000))
            session = the_session(server)
            http: Any = session.protocol._http
            assert http._sections._requests
            assert "AESGCM" in kinds_held(session.connection)
            await has_nothing_to_do(session)
            after_a_pause(session)
            assert session.connection.dozes
            assert "AESGCM" not in kinds_held(session.connection)
            assert not http._sections._requests
            assert session._timer is not None
    server.close()


async def test_a_connection_that_may_not_sleep_dozes_on_when_it_is_looked_at(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate, FileServer, sleep_after_s=DOZE_AFTER_S)
    async with http_client(certificate, server.port) as client:
        await client.get(10)
        session = the_session(server)
        await has_nothing_to_do(session)
        after_a_pause(session)
        sleepers = server.endpoint.asleep
        sleepers._looks = [(0.0, session.connection.name)]
        sleepers.look()
        assert sleepers.refused == {"not_exportable": 1}
        assert session.connection.dozes
    server.close()


async def test_none_begins_to_doze_while_all_are_handed_over(
    certificate: CertificateFiles,
) -> None:
    async with idle_session(certificate) as session:
        await has_nothing_to_do(session)
        endpoint: Any = session._endpoint
        bulk = BulkHandoff(
            OwnConnections(endpoint, endpoint),
            nowhere,
            ["nowhere"],
            proxy=False,
            on_done=lambda: None,
        )
        work = asyncio.create_task(bulk.work())
        await asyncio.sleep(0)
        after_a_pause(session)
        assert not session.connection.dozes
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        session._on_timer()
        assert session.connection.dozes


async def test_a_client_does_not_doze(certificate: CertificateFiles) -> None:
    server = await start(certificate, sleep_after_s=0)
    async with http_client(certificate, server.port) as client:
        await client.get(10)
        session = client._transmitter
        assert isinstance(session, Session)
        await has_nothing_to_do(session)
        after_a_pause(session)
        assert not session.connection.dozes
        session.connection.doze(monotonic())
        assert session.connection.dozes  # it might
    server.close()


async def test_a_session_looks_again_until_it_has_been_quiet_for_long_enough(
    certificate: CertificateFiles,
) -> None:
    async with idle_session(certificate) as session:
        session._on_timer()
        assert not session.connection.dozes
        assert session._timer is not None
        # No deadline of the connection's is as near as that.
        assert session._timer.when() <= session._loop.time() + DOZE_AFTER_S


async def test_a_program_that_cannot_rest_keeps_its_deadlines(
    certificate: CertificateFiles,
) -> None:
    async with idle_session(certificate) as session:
        await has_nothing_to_do(session)
        http: Any = session.protocol._http

        def fail() -> None:
            raise RuntimeError("no rest")

        http.rest = fail
        with pytest.raises(RuntimeError, match="no rest"):
            after_a_pause(session)
        assert session._timer is not None


async def test_a_deadline_that_was_set_without_sending_comes_before_a_doze(
    certificate: CertificateFiles,
) -> None:
    async with idle_session(certificate) as session:
        await has_nothing_to_do(session)
        session.connection.set_keep_alive(DOZE_AFTER_S / 2)
        after_a_pause(session)
        assert not session.connection.dozes
        async with asyncio.timeout(GUARD_S):
            while not session.connection._state.idle_sent_since:  # the PING
                await asyncio.sleep(0.005)
