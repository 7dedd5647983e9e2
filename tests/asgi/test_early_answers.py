"""Programs that answer an upload before it is over, over HTTP/3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aioquic.asyncio import connect
from aioquic.quic.events import QuicEvent, StopSendingReceived

from quicbaton import limits
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.http3.codes import ErrorCode
from quicbaton.transport.connection import Connection
from tests.asgi.test_requests import serving
from tests.asgi.webtransport_client import WebTransportClient
from tests.asyncio.loopback import client_configuration

_ANSWER = b"that is enough"
_PIECE = bytes(500_000)


async def refusing(scope: Any, _receive: Any, send: Any) -> None:
    """`/STATUS`, whatever is sent."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": int(scope["path"][1:])})
    await send({"type": "http.response.body", "body": _ANSWER})


class Uploader(WebTransportClient):
    """aioquic's client, and the codes with which it was stopped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stop_codes: list[int] = []

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StopSendingReceived):
            self.stop_codes.append(event.error_code)
        super().quic_event_received(event)

    async def begin(self) -> int:
        """An upload that is answered."""
        stream_id = self.ask("/413", method="POST", ended=False)
        self.write_body(stream_id, _PIECE)
        assert await self.answer(stream_id) == _ANSWER
        assert self.heads[stream_id][b":status"] == b"413"
        return stream_id


@asynccontextmanager
async def uploading(
    certificate: CertificateFiles,
) -> AsyncIterator[tuple[Uploader, Connection]]:
    """A client, and the server's end of its connection."""
    async with (
        serving(certificate, refusing) as curl,
        connect(
            "127.0.0.1",
            curl.server.port,
            configuration=client_configuration(certificate),
            create_protocol=Uploader,
        ) as client,
    ):
        assert isinstance(client, Uploader)
        while not curl.server.endpoint.sessions:
            await asyncio.sleep(0.01)
        (session,) = curl.server.endpoint.sessions.values()
        yield client, session.connection


async def until_over(stream_id: int, connection: Connection) -> None:
    while stream_id in connection.stream_ids:
        await asyncio.sleep(0.01)


async def test_an_upload_that_is_answered_may_go_on_to_its_end(
    certificate: CertificateFiles,
) -> None:
    """Several times as much as any window."""
    async with uploading(certificate) as (client, connection):
        stream_id = await client.begin()
        for number in range(12):
            client.write_body(stream_id, _PIECE, ended=number == 11)
        await until_over(stream_id, connection)
        assert client.stop_codes == []


async def test_an_upload_that_is_answered_and_falls_silent_is_stopped(
    certificate: CertificateFiles,
) -> None:
    async with uploading(certificate) as (client, connection):
        stream_id = await client.begin()
        await client.until(lambda: bool(client.stop_codes))
        assert client.stop_codes == [ErrorCode.H3_NO_ERROR]
        await until_over(stream_id, connection)


async def test_an_upload_that_goes_on_and_on_is_stopped(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_DRAINED_BYTES", 2_000_000)
    async with uploading(certificate) as (client, connection):
        stream_id = await client.begin()
        for _ in range(8):
            client.write_body(stream_id, _PIECE)
        await client.until(lambda: bool(client.stop_codes))
        assert client.stop_codes == [ErrorCode.H3_NO_ERROR]
        await until_over(stream_id, connection)


@pytest.mark.parametrize("status", [200, 413])
async def test_libcurl_has_the_answer_and_goes_on_over_the_same_connection(
    certificate: CertificateFiles, status: int
) -> None:
    async with serving(certificate, refusing) as client:
        for _ in range(3):
            answer = await client.ask(f"/{status}", bytes(5_000_000))
            assert (answer.error, answer.status, answer.body) == (0, status, _ANSWER)
        sessions = client.server.endpoint.sessions.values()
        if status == 200:
            assert len(sessions) == 1
