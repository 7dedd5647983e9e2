"""WebSockets over HTTP/3 (RFC 9220), with aioquic's HTTP/3 and wsproto's frames at the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.asyncio import serve
from quicbaton.cli.certificate import CertificateFiles
from tests.asgi.websocket_client import WebSocketClient, websocket_client
from tests.asyncio.loopback import server_configuration

ENDED: list[Any] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    """`/echo` sends messages back; `/deny`, `/refuse`, `/raise`, `/bye` do what they say."""
    if scope["type"] != "websocket":
        raise NotImplementedError
    assert (await receive())["type"] == "websocket.connect"
    match scope["path"]:
        case "/late":
            await asyncio.sleep(0.3)
        case "/broadcast":
            await send({"type": "websocket.accept", "headers": [(b"X-By", b"us")]})
            texts = [str(number) * 300_000 for number in range(8)]
            await asyncio.gather(*(send({"type": "websocket.send", "text": t}) for t in texts))
            await send({"type": "websocket.close"})
            return
        case "/order":
            await send({"type": "websocket.accept"})
            texts = ["1" * 300_000, "2", "3" * 300_000, "4"]
            await asyncio.gather(*(send({"type": "websocket.send", "text": t}) for t in texts))
            await send({"type": "websocket.close"})
            return
        case "/bad":
            await send({"type": "websocket.accept", "headers": [(b"x", b"a\nb")]})
        case "/deny":
            await send({"type": "websocket.close"})
            return
        case "/refuse":
            await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"who are you?"})
            return
    chosen = next(iter(scope["subprotocols"]), None)
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-by", b"us")]})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            ENDED.append((message["code"], message["reason"]))
            return
        if scope["path"] == "/raise":
            raise ValueError("a mistake of the program")
        if scope["path"] == "/bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
            return
        echo = {"text": message["text"], "bytes": message["bytes"]}
        await send({"type": "websocket.send", **echo})


async def start(certificate: CertificateFiles) -> Any:
    return await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        create_protocol=partial(
            AsgiProtocol, application=application, lifespan=Lifespan(application, "test")
        ),
    )


@asynccontextmanager
async def client_of(certificate: CertificateFiles) -> AsyncIterator[WebSocketClient]:
    ENDED.clear()
    server = await start(certificate)
    try:
        async with websocket_client(server.port) as client:
            yield client
    finally:
        server.close()


async def test_messages_of_both_kinds_come_back(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        wanted = (b"sec-websocket-protocol", b"chat, other")
        assert await client.open("/echo", wanted) == b"200"
        assert client.head[b"sec-websocket-protocol"] == b"chat"
        assert client.head[b"x-by"] == b"us"
        for message in ("hello", b"\0\1\2", "ü" * 70_000, bytes(3_000_000)):
            kind = TextMessage if isinstance(message, str) else BytesMessage
            client.say(kind(message))  # type: ignore[type-var]
            assert await client.message() == message
        client.say(TextMessage("in ", message_finished=False), TextMessage("parts"))
        assert await client.message() == "in parts"
        client.say(Ping(b"there?"))
        assert await client.frames.get() == Pong(b"there?")
        client.say(CloseConnection(4000, "done"))
        assert await client.frames.get() == CloseConnection(4000, "done")
        await client.ended.wait()
        assert ENDED == [(4000, "done")]


async def test_half_a_message_counts_among_what_the_process_may_hold(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate)
    memory = server.endpoint.budget
    async with websocket_client(server.port) as client:
        assert await client.open("/echo") == b"200"
        client.say(BytesMessage(bytes(3_000_000), message_finished=False))
        while memory.held_bytes < 3_000_000:
            await asyncio.sleep(0.01)
        client.say(BytesMessage(b""))
        assert await client.message() == bytes(3_000_000)
        while memory.held_bytes:
            await asyncio.sleep(0.01)
    server.close()


async def test_a_program_may_refuse(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        assert await client.open("/deny") == b"403"
    async with client_of(certificate) as client:
        assert await client.open("/refuse") == b"401"
        await client.ended.wait()
        assert client.body == b"who are you?"


async def test_messages_of_many_tasks_and_answers_to_pings_do_not_mix(
    certificate: CertificateFiles,
) -> None:
    async with client_of(certificate) as client:
        assert await client.open("/broadcast") == b"200"
        assert client.head[b"x-by"] == b"us"
        found: list[Any] = []
        while len(found) < 8:
            client.say(Ping(b"there?"))
            frame = await client.frames.get()
            parts = []
            while isinstance(frame, TextMessage):
                parts.append(frame.data)
                if frame.message_finished:
                    break
                frame = await client.frames.get()
            if parts:
                found.append("".join(parts))
            else:
                assert frame == Pong(b"there?")
        assert sorted(found) == [str(number) * 300_000 for number in range(8)]


async def test_a_short_message_does_not_overtake_a_long_one(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        assert await client.open("/order") == b"200"
        found = [str(await client.message()) for _ in range(4)]
        assert [(text[0], len(text)) for text in found] == [
            ("1", 300_000),
            ("2", 1),
            ("3", 300_000),
            ("4", 1),
        ]


async def test_what_comes_before_the_accept_waits(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        opening = asyncio.ensure_future(client.open("/late"))
        await asyncio.sleep(0.1)
        client.say(Ping(b"early"), TextMessage("first"))
        assert await opening == b"200"
        assert await client.frames.get() == Pong(b"early")
        assert await client.message() == "first"


async def test_a_client_that_ends_its_stream_has_left(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        await client.open("/echo")
        client.send_raw(b"", ended=True)
        await client.reset.wait()
        assert ENDED == [(1006, "")]


async def test_a_mistake_in_the_accept_is_a_500(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        assert await client.open("/bad") == b"500"


async def test_ends_have_their_codes(certificate: CertificateFiles) -> None:
    for path, code in (("/bye", 4001), ("/raise", 1011)):
        async with client_of(certificate) as client:
            await client.open(path)
            client.say(TextMessage("now"))
            frame = await client.frames.get()
            assert isinstance(frame, CloseConnection)
            assert frame.code == code
            await client.ended.wait()


async def test_a_client_that_breaks_a_rule_is_told(certificate: CertificateFiles) -> None:
    async with client_of(certificate) as client:
        await client.open("/echo")
        client.send_raw(b"\x81\x05hello")  # a client's frames are masked
        frame = await client.frames.get()
        assert isinstance(frame, CloseConnection)
        assert frame.code == 1002
    assert [code for code, _ in ENDED] == [1002]


async def test_a_message_that_is_too_large_ends_it(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 20
    monkeypatch.setattr("quicbaton.asgi.websocket.MAX_WEBSOCKET_MESSAGE_BYTES", limit)
    async with client_of(certificate) as client:
        await client.open("/echo")
        piece = bytes(1 << 16)
        for _ in range(limit // len(piece) + 1):
            client.say(BytesMessage(piece, message_finished=False))  # type: ignore[arg-type]
        frame = await client.frames.get()
        assert isinstance(frame, CloseConnection)
        assert frame.code == 1009


async def test_a_client_that_goes_without_a_word_is_a_disconnect(
    certificate: CertificateFiles,
) -> None:
    async with client_of(certificate) as client:
        await client.open("/echo")
        client.say(TextMessage("hello"))
        await client.message()
    while not ENDED:
        await asyncio.sleep(0.01)
    assert ENDED == [(1006, "")]
