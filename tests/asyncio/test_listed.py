"""What `ps` says of a connection."""

from __future__ import annotations

import asyncio

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.service.node.connections import _state_of
from tests.asyncio.loopback import http_client
from tests.asyncio.test_sleep import GUARD_S, start, the_session


async def test_a_connection_whose_client_has_left_is_closing_until_it_is_forgotten(
    certificate: CertificateFiles,
) -> None:
    """That takes three PTOs, a second on a busy machine, and no command can move it any more."""
    server = await start(certificate, sleep_after_s=0)
    async with http_client(certificate, server.port) as client:
        await client.get(10)
        session = the_session(server)
        assert _state_of(session) == "open"
        client.close()
        async with asyncio.timeout(GUARD_S):
            while _state_of(session) == "open":
                await asyncio.sleep(0)
        assert _state_of(session) == "closing"
        assert the_session(server) is session
    server.close()
