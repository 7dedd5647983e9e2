"""WebSockets over TCP: by upgrade (RFC 6455) and by Extended CONNECT (RFC 8441)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h2.events
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from quicbaton.cli.certificate import CertificateFiles
from tests.asgi.tcp_stage import Http2Client, Stage, serving
from tests.asgi.test_websockets import application


class Upgraded:
    """A WebSocket over HTTP/1.1, by wsproto."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    @classmethod
    async def open(cls, stage: Stage, path: str) -> tuple[Upgraded, Any]:
        made = cls(*await stage.connect("1.1"))
        made.say(Request("localhost", path, subprotocols=["chat", "other"]))
        return made, await made.hear()

    def say(self, event: Event) -> None:
        self._writer.write(self._frames.send(event))

    async def hear(self) -> Any:
        while not self._events:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError
            self._frames.receive_data(data)
            self._events += list(self._frames.events())
        return self._events.pop(0)

    def close(self) -> None:
        self._writer.close()


class Extended:
    """One over HTTP/2."""

    def __init__(self, client: Http2Client, stream_id: int) -> None:
        self._client, self._stream_id = client, stream_id
        self._frames = Connection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self._seen = 0

    @classmethod
    async def open(cls, stage: Stage, path: str) -> tuple[Extended, Any]:
        client = await Http2Client.connect(stage)
        await client.until(h2.events.RemoteSettingsChanged)
        head = (":protocol", "websocket"), ("sec-websocket-version", "13")
        more = (*head, ("sec-websocket-protocol", "chat, other"))
        stream_id = client.request(path, *more, method="CONNECT")
        response = await client.until(h2.events.ResponseReceived, stream_id)
        fields = dict(response.headers)
        status = int(fields[":status"])
        if status != 200:
            return cls(client, stream_id), RejectConnection(status_code=status)
        accepted = AcceptConnection(subprotocol=fields.get("sec-websocket-protocol"))
        return cls(client, stream_id), accepted

    def say(self, event: Event) -> None:
        data = self._frames.send(event)
        for at in range(0, len(data), 16_384):
            self._client.h2.send_data(self._stream_id, data[at : at + 16_384])
        self._client.flush()

    async def hear(self) -> Any:
        while not self._events:
            body = self._client.body(self._stream_id)
            if len(body) > self._seen:
                self._frames.receive_data(body[self._seen :])
                self._seen = len(body)
                self._events += list(self._frames.events())
            elif not await self._client.read():
                raise EOFError
        return self._events.pop(0)

    def close(self) -> None:
        self._client.close()


KINDS = pytest.mark.parametrize("kind", [Upgraded, Extended])


@KINDS
async def test_messages_pass_both_ways(certificate: CertificateFiles, kind: Any) -> None:
    async with serving(certificate, application=application) as stage:
        client, accepted = await kind.open(stage, "/echo")
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == "chat"
        client.say(TextMessage("hällo"))
        assert (await client.hear()).data == "hällo"
        client.say(BytesMessage(b"x" * 50_000))
        pieces = [await client.hear()]
        while not pieces[-1].message_finished:
            pieces.append(await client.hear())
        assert b"".join(piece.data for piece in pieces) == b"x" * 50_000
        client.say(Ping(b"there?"))
        assert (await client.hear()) == Pong(b"there?")
        client.say(CloseConnection(1000, "done"))
        assert (await client.hear()).code == 1000
        client.close()


@KINDS
@pytest.mark.parametrize(("path", "status"), [("/deny", 403), ("/refuse", 401)])
async def test_a_program_refuses(
    certificate: CertificateFiles, kind: Any, path: str, status: int
) -> None:
    async with serving(certificate, application=application) as stage:
        client, answer = await kind.open(stage, path)
        assert isinstance(answer, RejectConnection)
        assert answer.status_code == status
        client.close()


@KINDS
async def test_a_program_closes_with_its_code_or_by_a_mistake(
    certificate: CertificateFiles, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "quicbaton.asgi"):
        async with serving(certificate, application=application) as stage:
            for path, code in (("/bye", 4001), ("/raise", 1011)):
                client, _ = await kind.open(stage, path)
                client.say(TextMessage("go"))
                assert (await client.hear()).code == code, path
                client.close()


async def test_what_is_no_handshake_is_refused(certificate: CertificateFiles) -> None:
    async with serving(certificate, application=application) as stage:
        upgrade = b"GET /echo HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        for more, status in ((b"", b"400"), (key, b"426")):
            reader, writer = await stage.connect("1.1")
            writer.write(upgrade + more + b"\r\n")
            assert (await reader.readline()).split()[1] == status
            writer.transport.abort()
