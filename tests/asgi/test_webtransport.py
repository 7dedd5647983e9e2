"""WebTransport sessions of an ASGI program, asked by aioquic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from quicbaton import limits
from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.asyncio import serve
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.transport.budget import MemoryBudget
from tests.asgi.webtransport_client import WebTransportClient, webtransport_client
from tests.asyncio.loopback import server_configuration

_DATAGRAM_FRAME_BYTES = 65_535


class Program:
    """Does what the path says, and remembers all that it is told."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.told: list[dict[str, Any]] = []
        self.over = asyncio.Event()
        self.go_on = asyncio.Event()
        self.memory = MemoryBudget()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "webtransport"
        self.scope = scope
        assert (await receive())["type"] == "webtransport.connect"
        try:
            await getattr(self, scope["path"].removeprefix("/"))(receive, send)
        finally:
            self.over.set()

    async def echo(self, receive: Any, send: Any) -> None:
        """A bidirectional stream on itself, a unidirectional one on one of ours."""
        await accept(send, subprotocol=next(iter(self.scope["subprotocols"]), None))
        waiting: list[bytes] = []
        bodies: dict[int, bytes] = {}
        while (message := await receive())["type"] != "webtransport.disconnect":
            self.told.append(message)
            match message["type"]:
                case "webtransport.stream.receive":
                    stream = message["stream"]
                    bodies[stream] = bodies.get(stream, b"") + message["data"]
                    if message["more_data"] or not message["end_stream"]:
                        continue
                    if stream & 2:
                        waiting.append(bodies.pop(stream))
                        await send({"type": "webtransport.stream.open", "bidirectional": False})
                    else:
                        await answer(send, stream, bodies.pop(stream))
                case "webtransport.stream.opened":
                    await answer(send, message["stream"], waiting.pop(0))
                case "webtransport.datagram.receive":
                    await send({"type": "webtransport.datagram.send", "data": message["data"]})
        self.told.append(message)

    async def close(self, receive: Any, send: Any) -> None:
        await accept(send)
        opened = await receive()
        await answer(send, opened["stream"], b"the last")
        await send({"type": "webtransport.close", "code": 7, "reason": "enough"})

    async def refuse(self, _receive: Any, send: Any) -> None:
        await send({"type": "webtransport.close", "status": 429})

    async def refuse_by_code(self, _receive: Any, send: Any) -> None:
        await send({"type": "webtransport.close", "code": 404})

    async def return_at_once(self, _receive: Any, send: Any) -> None:
        await accept(send)

    async def raise_early(self, _receive: Any, _send: Any) -> None:
        raise ValueError("a mistake of the program")

    async def raise_late(self, receive: Any, send: Any) -> None:
        await accept(send)
        await receive()
        raise ValueError("a mistake of the program")

    async def reset(self, receive: Any, send: Any) -> None:
        await accept(send)
        stream = (await receive())["stream"]
        await send({"type": "webtransport.stream.reset", "stream": stream, "code": 40})
        stop = {"type": "webtransport.stream.stop_receiving", "stream": stream, "code": 41}
        await send(stop)
        await receive_until(receive, "webtransport.disconnect")

    async def pause(self, receive: Any, send: Any) -> None:
        """Reads nothing of the first stream until it is told to."""
        await accept(send)
        first = (await receive())["stream"]
        await send({"type": "webtransport.stream.pause", "stream": first})
        other = await receive_until(receive, "webtransport.stream.receive")
        self.told.append(other)
        await answer(send, other["stream"], b"still served")
        await self.go_on.wait()
        await send({"type": "webtransport.stream.resume", "stream": first})
        body = b""
        while True:
            message = await receive_until(receive, "webtransport.stream.receive")
            body += message["data"]
            if message["stream"] == first and not message["more_data"]:
                break
        await answer(send, first, b"%d" % len(body))
        await receive_until(receive, "webtransport.disconnect")

    async def deaf(self, receive: Any, send: Any) -> None:
        await accept(send)
        await self.go_on.wait()
        while (message := await receive())["type"] != "webtransport.disconnect":
            self.told.append(message)

    async def flood(self, receive: Any, send: Any) -> None:
        """Sends more than the client takes."""
        await accept(send)
        stream = (await receive())["stream"]
        for _ in range(64):
            await send(
                {"type": "webtransport.stream.send", "stream": stream, "data": bytes(1 << 20)}
            )
        await answer(send, stream, b"")

    async def too_large(self, receive: Any, send: Any) -> None:
        await accept(send)
        size = self.scope["extensions"]["webtransport"]["max_datagram_size"]
        await send({"type": "webtransport.datagram.send", "data": bytes(size)})
        with pytest.raises(ValueError, match="max_datagram_size"):
            await send({"type": "webtransport.datagram.send", "data": bytes(size + 1)})
        await receive_until(receive, "webtransport.disconnect")


async def accept(send: Any, **more: Any) -> None:
    await send({"type": "webtransport.accept", "headers": [(b"x-by", b"us")], **more})


async def answer(send: Any, stream: int, data: bytes) -> None:
    await send(
        {"type": "webtransport.stream.send", "stream": stream, "data": data, "end_stream": True}
    )


async def receive_until(receive: Any, kind: str) -> Any:
    while (message := await receive())["type"] != kind:
        assert message["type"] != "webtransport.disconnect"
    return message


@asynccontextmanager
async def session(
    certificate: CertificateFiles,
    path: str,
    *fields: tuple[bytes, bytes],
    status: int = 200,
    memory_bytes: int = limits.MEMORY_BUDGET_BYTES,
) -> AsyncIterator[tuple[WebTransportClient, Program]]:
    program = Program()
    configuration = server_configuration(certificate)
    configuration.max_datagram_frame_size = _DATAGRAM_FRAME_BYTES
    server = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=partial(
            AsgiProtocol, application=program, lifespan=Lifespan(program, "test")
        ),
        memory_bytes=memory_bytes,
    )
    program.memory = server.endpoint.budget
    try:
        async with webtransport_client(server.port) as client:
            assert await client.open(path, *fields) == status
            yield client, program
    finally:
        server.close()


async def test_streams_of_both_kinds_and_datagrams_come_back(certificate: CertificateFiles) -> None:
    async with session(certificate, "/echo") as (client, program):
        assert client.heads[client.session][b"x-by"] == b"us"
        for size in (0, 5, 3_000_000):
            both = client.open_stream()
            client.write(both, bytes(size), ended=True)
            assert await client.answer(both) == bytes(size)
        one = client.open_stream(unidirectional=True)
        client.write(one, b"there", ended=True)
        ours = 15  # the fourth unidirectional stream of a server, after those of HTTP/3
        assert await client.answer(ours) == b"there"
        client.send_datagram(b"ping")
        await client.until(lambda: client.datagrams == [b"ping"])
        client.close_session(17, "bye")
        await program.over.wait()
        kinds = [message["type"].removeprefix("webtransport.") for message in program.told]
        assert kinds[:2] == ["stream.open", "stream.receive"]
        opened = next(message for message in program.told if message["type"][-6:] == "opened")
        assert opened["stream"] == ours
        assert not opened["bidirectional"]
        assert program.told[-1] == {
            "type": "webtransport.disconnect",
            "code": 17,
            "reason": "bye",
        }


async def test_the_scope_says_what_the_session_can(certificate: CertificateFiles) -> None:
    offered = (b"wt-available-protocols", b'"moq-00", "a \\"b\\""')
    async with session(certificate, "/echo", offered) as (client, program):
        scope = program.scope
        assert scope["method"] == "CONNECT"
        assert scope["http_version"] == "3"
        assert scope["subprotocols"] == ["moq-00", 'a "b"']
        assert 1100 < scope["extensions"]["webtransport"]["max_datagram_size"] < 1500
        assert client.heads[client.session][b"wt-protocol"] == b'"moq-00"'


@pytest.mark.parametrize(("path", "status"), [("/refuse", 429), ("/refuse_by_code", 404)])
async def test_a_program_may_refuse(certificate: CertificateFiles, path: str, status: int) -> None:
    async with session(certificate, path, status=status) as (client, _):
        await client.until(lambda: client.session in client.ended)


async def test_a_program_closes_and_what_it_ended_before_arrives(
    certificate: CertificateFiles,
) -> None:
    async with session(certificate, "/close") as (client, _):
        stream = client.open_stream()
        client.write(stream, b"hello")
        assert await client.answer(stream) == b"the last"
        await client.until(lambda: client.session in client.ended)
        assert client.closed == (7, "enough")


async def test_a_program_that_returns_has_closed(certificate: CertificateFiles) -> None:
    async with session(certificate, "/return_at_once") as (client, _):
        await client.until(lambda: client.session in client.ended)
        assert client.closed == (0, "")


async def test_a_mistake_of_the_program_is_no_end(certificate: CertificateFiles) -> None:
    async with session(certificate, "/raise_early", status=500) as (client, _):
        assert client.closed is None
    async with session(certificate, "/raise_late") as (client, _):
        client.send_datagram(b"now")
        await client.until(lambda: client.session in client.resets)
        assert client.closed is None


async def test_codes_of_resets_and_stops_reach_the_client(certificate: CertificateFiles) -> None:
    async with session(certificate, "/reset") as (client, _):
        stream = client.open_stream()
        client.write(stream, b"begun")
        await client.until(lambda: stream in client.resets and stream in client.stops)
        assert (client.resets[stream], client.stops[stream]) == (40, 41)


async def test_codes_of_resets_and_stops_reach_the_program(certificate: CertificateFiles) -> None:
    async with session(certificate, "/echo") as (client, program):
        stream = client.open_stream()
        client.write(stream, b"begun")
        client.send_datagram(b"begun")
        await client.until(lambda: bool(client.datagrams))
        client.reset(stream, 50)
        client.stop(stream, 51)
        client.send_datagram(b"sent")
        await client.until(lambda: len(client.datagrams) == 2)
        news = {m["type"]: m for m in program.told if m.get("stream") == stream}
        assert news["webtransport.stream.reset"]["code"] == 50
        assert news["webtransport.stream.stop_sending"]["code"] == 51
        # Programs that know of no resets are told of an end; that it is not whole they can see.
        last = news["webtransport.stream.receive"]
        assert (last["data"], last["more_data"], last["end_stream"]) == (b"", False, False)


async def test_a_stream_that_is_paused_holds_up_no_other(certificate: CertificateFiles) -> None:
    async with session(certificate, "/pause") as (client, program):
        size = 3_000_000
        first = client.open_stream()
        client.write(first, bytes(size), ended=True)
        await client.until(lambda: bool(program.scope))
        second = client.open_stream()
        client.write(second, b"hello", ended=True)
        assert await client.answer(second) == b"still served"
        program.go_on.set()
        assert await client.answer(first) == b"%d" % size


@pytest.mark.parametrize("ended", [False, True])
async def test_a_stream_that_is_stopped_before_its_first_byte_costs_no_session(
    certificate: CertificateFiles, ended: bool
) -> None:
    async with session(certificate, "/echo") as (client, program):
        early = client._quic.get_next_available_stream_id()
        client.write(early, b"")
        client.stop(early, 9)
        await client.ping()
        client.write(early, b"\x40\x41%cearly" % client.session, ended=ended)
        other = client.open_stream()
        client.write(other, b"still served", ended=True)
        assert await client.answer(other) == b"still served"
        (stop,) = (m for m in program.told if m["type"] == "webtransport.stream.stop_sending")
        assert stop["stream"] == early
        # Of a stream that has ended in both directions nobody knows the code any more.
        assert stop["code"] in ((0, 9) if ended else (9,))


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_WAITING_SESSION_NEWS", 20), ("MAX_WAITING_SESSION_BYTES", 5000)]
)
async def test_a_client_that_sends_more_than_the_program_takes_is_torn_off(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """Streams that come whole at once know no flow control."""
    monkeypatch.setattr(f"quicbaton.asgi.webtransport.{limit}", value)
    async with session(certificate, "/deaf") as (client, program):
        for _ in range(20):
            client.write(client.open_stream(unidirectional=True), bytes(1000), ended=True)
        await client.until(lambda: client.session in client.resets)
        program.go_on.set()
        await program.over.wait()
        assert len(program.told) < 25


async def test_what_waits_for_the_program_counts_among_what_the_process_may_hold(
    certificate: CertificateFiles,
) -> None:
    async with session(certificate, "/deaf") as (client, program):
        for _ in range(20):
            client.write(client.open_stream(unidirectional=True), bytes(1000), ended=True)
        half = client.open_stream()
        client.write(half, bytes(300_000))
        while program.memory.held_bytes < 320_000:
            await asyncio.sleep(0.01)
        program.go_on.set()
        client.write(half, b"", ended=True)
        while program.memory.held_bytes > 1000:
            await asyncio.sleep(0.01)


async def test_a_session_that_holds_most_of_the_memory_is_closed(
    certificate: CertificateFiles,
) -> None:
    """Streams that come whole at once wait beside the connection."""
    async with session(certificate, "/deaf", memory_bytes=1 << 17) as (client, program):
        for _ in range(1000):
            client.write(client.open_stream(unidirectional=True), bytes(1000), ended=True)
        await client.wait_closed()
        assert program.memory.held_bytes == 0
        program.go_on.set()
        await program.over.wait()


async def test_old_datagrams_give_way_to_new_ones(certificate: CertificateFiles) -> None:
    async with session(certificate, "/deaf") as (client, program):
        count = 4 * limits.MAX_WAITING_SESSION_DATAGRAMS
        for number in range(count):
            client.send_datagram(b"%d" % number)
            if number % 16 == 0:
                await client.ping()
        await client.ping()
        program.go_on.set()
        client.close_session(0, "")
        await program.over.wait()
        got = [int(m["data"]) for m in program.told]
        assert len(got) == limits.MAX_WAITING_SESSION_DATAGRAMS
        assert got == sorted(got)
        assert got[-1] == count - 1


async def test_a_client_that_goes_is_a_disconnect(certificate: CertificateFiles) -> None:
    async with session(certificate, "/echo") as (client, program):
        client.close()
        await program.over.wait()
    async with session(certificate, "/flood") as (client, program):
        stream = client.open_stream()
        client.write(stream, b"go")
        await client.until(lambda: len(client.received.get(stream, b"")) > 1 << 20)
        client.close()
        await program.over.wait()


async def test_a_datagram_that_does_not_fit_is_a_mistake(certificate: CertificateFiles) -> None:
    async with session(certificate, "/too_large") as (client, program):
        await client.until(lambda: bool(client.datagrams))
        size = program.scope["extensions"]["webtransport"]["max_datagram_size"]
        assert client.datagrams == [bytes(size)]
        client.close_session(0, "")
        await program.over.wait()
