"""The memory of TCP connections, which they share with those of QUIC."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import h2.events
import pytest
import uvloop

from quicbaton.asgi import Lifespan
from quicbaton.asgi.tcp import TcpServer, tls_identity
from quicbaton.asyncio.listener import Listener
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.limits import (
    MIN_CONNECTION_WINDOW_BYTES,
    SMALL_BUFFER_HIGH_BYTES,
    TCP_BUFFER_BYTES,
)
from tests.asgi import asgi_programs
from tests.asgi.tcp_stage import Http2Client, Stage, serving
from tests.asyncio.loopback import LoopFactory

VERSIONS = pytest.mark.parametrize("version", ["1.1", "2"])
LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
MEGABYTE = 1 << 20


class Patient:
    """A program that takes nothing of its requests before it `may`, and then says their hash."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/hash":
            await self.may.wait()
        await asgi_programs.application({**scope, "state": {"word": "x"}}, receive, send)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def held_back(stage: Stage) -> list[int]:
    """The bytes that connections hold of which nothing more is read."""
    connections: list[Any] = list(stage.memory.others.values())
    return [one._account.held_bytes for one in connections if one._account in one._pauses]


async def upload(stage: Stage, version: str, body: bytes) -> str:
    """To `/hash`; what the program says."""
    answer = await stage.ask(version, "/hash", body=body)
    assert answer.error == 0
    return answer.body.decode()


@VERSIONS
async def test_what_a_program_does_not_take_counts_until_it_does(
    certificate: CertificateFiles, version: str
) -> None:
    body = bytes(range(256)) * 12_000
    program = Patient()
    async with serving(certificate, application=program) as stage:
        budget = stage.memory.budget
        uploading = asyncio.create_task(upload(stage, version, body))
        try:
            await until(lambda: budget.held_bytes)
            # More may be on its way, until nothing more is read.
            await until(
                lambda: [one.held_bytes for one in stage.server.describe()] == [budget.held_bytes]
            )
        finally:
            program.may.set()
        assert await uploading == hashlib.sha256(body).hexdigest()
        await until(lambda: not budget.held_bytes)
        await until(lambda: not stage.memory.others)


@VERSIONS
@LOOPS
async def test_what_a_client_does_not_read_counts_and_is_less_when_memory_is_tight(
    certificate: CertificateFiles, version: str, loop_factory: LoopFactory
) -> None:
    size = 20 * MEGABYTE
    async with serving(certificate, memory_bytes=64 * MEGABYTE) as stage:
        budget = stage.memory.budget
        others = budget.open(b"other connections")
        first = await begin_download(stage, version, size)
        await until(lambda: budget.held_bytes > TCP_BUFFER_BYTES // 2)
        others.note(budget.total_bytes * 5 // 8, 0)
        second = await begin_download(stage, version, size)
        await until(lambda: len(stage.memory.others) == 2)
        account = list(stage.memory.others.values())[-1]._account  # type: ignore[attr-defined]
        await until(lambda: account.held_bytes > SMALL_BUFFER_HIGH_BYTES // 2)
        assert account.held_bytes < TCP_BUFFER_BYTES // 2
        assert await second() == await first() == asgi_programs.pattern(size)
        await until(lambda: budget.held_bytes == others.held_bytes)


async def begin_download(stage: Stage, version: str, size: int) -> Callable[[], Any]:
    """A request whose answer nobody reads before the function is called that this returns."""
    path = f"/large/{size}"
    if version == "2":
        client = await Http2Client.connect(stage)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        client.h2.increment_flow_control_window(size)
        client.flush()
        stream_id = client.request(path)

        async def rest() -> bytes:
            await client.until(h2.events.StreamEnded, stream_id)
            client.close()
            return client.body(stream_id)

        return rest
    reader, writer = await stage.connect("1.1")
    writer.write(f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())

    async def all_of_it() -> bytes:
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return body

    return all_of_it


async def test_a_client_that_has_much_here_is_not_read_while_memory_is_low(
    certificate: CertificateFiles,
) -> None:
    """Over HTTP/2: of HTTP/1.1 no more is read in any case than the program takes."""
    body = bytes(range(256)) * 3_000
    small = bytes(1_000)
    program = Patient()
    async with serving(certificate, application=program, memory_bytes=8 * MEGABYTE) as stage:
        budget = stage.memory.budget
        others = budget.open(b"other connections")
        others.note(6 * MEGABYTE, 0)
        glutton = asyncio.create_task(upload(stage, "2", body))
        await until(lambda: held_back(stage))
        assert MIN_CONNECTION_WINDOW_BYTES <= held_back(stage)[0] < len(body)
        program.may.set()
        # A client that holds little goes on, and so does one that has taken everything.
        assert await upload(stage, "2", small) == hashlib.sha256(small).hexdigest()
        assert await glutton == hashlib.sha256(body).hexdigest()
        program.may.clear()
        glutton = asyncio.create_task(upload(stage, "2", body))
        await until(lambda: held_back(stage))
        others.close()
        stage.memory.relieve()
        await until(lambda: budget.held_bytes >= len(body))
        program.may.set()
        assert await glutton == hashlib.sha256(body).hexdigest()


@VERSIONS
async def test_the_connection_that_holds_most_is_closed_and_no_other(
    certificate: CertificateFiles, version: str
) -> None:
    program = Patient()
    async with serving(certificate, application=program, memory_bytes=MEGABYTE) as stage:
        budget = stage.memory.budget
        modest = await Http2Client.connect(stage)
        # Less than there is: it is the others that fill the memory.
        glutton = asyncio.create_task(stage.ask(version, "/hash", body=bytes(MEGABYTE // 2)))
        await until(lambda: budget.held_bytes > 8_000)
        for number in range(MEGABYTE // 8_000):
            budget.open(b"%d" % number).note(8_000, 0)
        stage.memory.relieve()
        assert (await glutton).error
        assert stage.memory._counters["closed_for_memory"] == 1
        assert budget.held_bytes < MEGABYTE
        program.may.set()  # else it would wait for ever
        stream_id = modest.request("/hello")
        await modest.until(h2.events.StreamEnded, stream_id)
        modest.close()


@VERSIONS
async def test_new_clients_are_turned_away_while_memory_is_nearly_full(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate, memory_bytes=8 * MEGABYTE) as stage:
        budget = stage.memory.budget
        present = await Http2Client.connect(stage)
        await present.until(h2.events.RemoteSettingsChanged)
        others = budget.open(b"other connections")
        others.note(7 * MEGABYTE, 0)
        assert (await stage.ask(version, "/hello")).error
        assert stage.server.refused == 1
        stream_id = present.request("/hello")  # who is here stays
        await present.until(h2.events.StreamEnded, stream_id)
        others.note(0, 0)
        assert (await stage.ask(version, "/hello")).status == 200
        assert stage.server.refused == 1
        present.close()


async def test_a_process_without_memory_leaves_clients_to_one_that_has_some(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate, memory_bytes=8 * MEGABYTE) as stage:
        # As a further worker has it: the same open socket.
        other = TcpServer(
            Listener(stage.server.listener),
            tls_identity(certificate.certificate, certificate.key),
            30,
            application=asgi_programs.application,
            lifespan=Lifespan(asgi_programs.application, "test:application"),
        )
        other._serving.lifespan.state["word"] = "another"
        other.start()
        stage.memory.budget.open(b"other connections").note(7 * MEGABYTE, 0)
        for _ in range(20):
            assert (await stage.ask("2", "/hello")).body == b"hello another"
        assert stage.server.refused == 0
        other.close()
        await until(lambda: not other.running)
