"""Responses that name a file (`http.response.pathsend`), or an open one (`.zerocopysend`): data,
which moves without a relay."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quicbaton.asgi import AsgiProtocol, Lifespan, whole_disk
from quicbaton.http3.codes import ErrorCode
from quicbaton.testing import Conditions, EndOptions, Pair, move
from tests.files.browser import Browser

SIZE = 3_000_000


class Site:
    """An ASGI program that sends `path`, or what the query says; what became of its tasks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: list[tuple[bytes, bytes]] = []
        self.trailers = False
        self.status = 200
        self.file: Any = None
        self.last: dict[str, Any] = {}
        self.messages: list[Any] = []
        self.background = asyncio.Event()
        self.returned = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        head = {"status": self.status, "headers": self.fields, "trailers": self.trailers}
        await send({"type": "http.response.start", **head})
        if scope["path"] == "/body":
            await send({"type": "http.response.body", "body": b"body", "more_body": True})
        if scope["path"] == "/parts":
            await self._send_parts(send)
        else:
            await send({"type": "http.response.pathsend", "path": str(self.path)})
        if self.trailers:
            await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"7")]})
        if scope["path"] == "/background":
            self.messages.append(await receive())
            await self.background.wait()
        self.returned += 1

    async def _send_parts(self, send: Any) -> None:
        """Body, 1000 bytes from its position, body, the last half."""
        part = {"type": "http.response.zerocopysend", "file": self.file}
        await send({"type": "http.response.body", "body": b"<", "more_body": True})
        for count in (400, 600):
            await send({**part, "count": count, "more_body": True})
        await send({"type": "http.response.body", "body": b">", "more_body": True})
        await send({**part, "offset": os.fstat(self.file.fileno()).st_size // 2, **self.last})


class Session:
    """A browser joined to a site."""

    def __init__(self, path: Path) -> None:
        self.site = Site(path)
        self.disk = whole_disk()
        create = partial(
            AsgiProtocol,
            application=self.site,
            lifespan=Lifespan(self.site, "test"),
            disk=self.disk,
        )
        self.pair = Pair(
            Conditions(delay_s=0.005),
            client=EndOptions(create=Browser),
            server=EndOptions(create=create),
        )
        self.pair.connect()
        self.browser: Any = self.pair.client.application

    @property
    def protocol(self) -> AsgiProtocol:
        protocol = self.pair.server.application
        assert isinstance(protocol, AsgiProtocol)
        return protocol

    async def run(
        self, until: Callable[[], object], each: Callable[[], None] | None = None
    ) -> None:
        """Event by event; tasks have their turns between them."""
        for _ in range(200_000):
            if until():
                return
            self.pair.step()
            for _ in range(4):
                await asyncio.sleep(0)
            if each is not None:
                each()
        raise AssertionError("it does not come")

    async def ask(self, path: str = "/", method: str = "GET", *fields: tuple[bytes, bytes]) -> int:
        stream_id: int = self.browser.request(method, path, *fields)
        await self.run(lambda: self.over(stream_id))
        return stream_id

    def over(self, stream_id: int) -> bool:
        return stream_id in self.browser.ended or stream_id in self.browser.resets

    def status(self, stream_id: int) -> bytes:
        return self.browser.headers[stream_id][b":status"]  # type: ignore[no-any-return]

    def body(self, stream_id: int) -> bytes:
        return bytes(self.browser.bodies.get(stream_id, b""))


@contextmanager
def session_of(path: Path) -> Iterator[Session]:
    """A session that keeps no file open in the end."""
    session = Session(path)
    yield session
    assert len(session.disk.files) == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(os.urandom(SIZE))
    return tmp_path / "file.bin"


async def test_downloads_move_at_every_event_and_are_no_running_requests(file: Path) -> None:
    data = file.read_bytes()[:400_000]
    file.write_bytes(data)
    with session_of(file) as session:
        session.site.fields = [(b"content-length", b"%d" % len(data))]
        streams = [session.browser.request("GET", "/background") for _ in range(3)]
        await session.run(lambda: len(session.site.messages) == 3)
        moves = 0

        def move_on() -> None:
            nonlocal moves
            assert not session.protocol.running_streams()
            move(session.pair.server)
            moves += 1

        await session.run(lambda: all(map(session.over, streams)), move_on)
        assert moves > 100
        assert all(session.body(stream_id) == data for stream_id in streams)
        # What the program does after its response, it does where it began.
        assert session.site.messages == [{"type": "http.disconnect"}] * 3
        assert session.site.returned == 0
        session.site.background.set()
        await session.run(lambda: session.site.returned == 3)


async def test_a_program_that_has_returned_holds_nothing(file: Path) -> None:
    with session_of(file) as session:
        stream_id = session.browser.request("GET", "/")
        await session.run(lambda: session.site.returned)
        assert not session.over(stream_id)
        assert len(session.disk.files) == 1
        await session.run(lambda: session.over(stream_id))
        assert session.body(stream_id) == file.read_bytes()


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("change", ["overwritten", "cut off", "touched", "deleted"])
async def test_a_file_that_changes_is_never_sent_wrong(
    file: Path, change: str, moves: bool
) -> None:
    before = file.read_bytes()
    with session_of(file) as session:
        stream_id = session.browser.request("GET", "/")
        await session.run(lambda: session.body(stream_id))
        match change:
            case "overwritten":
                with file.open("r+b") as opened:
                    opened.write(os.urandom(SIZE))
            case "cut off":
                os.truncate(file, SIZE // 2)
            case "touched":
                os.utime(file)
            case "deleted":
                file.unlink()
        if moves:
            move(session.pair.server)
        await session.run(lambda: session.over(stream_id))
        assert before.startswith(session.body(stream_id))
        if change == "deleted":  # it is open
            assert session.body(stream_id) == before
        else:
            assert session.browser.resets == {stream_id: ErrorCode.H3_INTERNAL_ERROR}


async def test_a_download_on_another_host_goes_on_if_the_same_file_is_there(file: Path) -> None:
    with session_of(file) as session:
        for there in (True, False):
            stream_id = session.browser.request("GET", "/")
            await session.run(lambda stream_id=stream_id: session.body(stream_id))
            whole = file.read_bytes()
            if not there:
                file.unlink()
            move(session.pair.server, other_host=True)
            await session.run(lambda stream_id=stream_id: session.over(stream_id))
            assert (session.body(stream_id) == whole) == there
            assert (stream_id in session.browser.resets) != there


async def test_what_cannot_be_sent_is_a_mistake_of_the_program(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), session_of(file) as session:
        site = session.site
        for path in (file.with_name("missing"), file.parent, Path("/dev/null")):
            site.path = path
            assert session.status(await session.ask()) == b"500"
        site.path = file
        site.fields = [(b"content-length", b"%d" % (SIZE + 1))]
        assert session.status(await session.ask()) == b"500"
        # A part of the body is out: it must not look like the whole.
        stream_id = await session.ask("/body")
        assert session.browser.resets[stream_id] == ErrorCode.H3_INTERNAL_ERROR
        site.fields = [(b"content-length", b"%d" % SIZE)]
        assert session.body(await session.ask()) == file.read_bytes()
    errors = [str(one.exc_info[1]) for one in caplog.records if one.exc_info]
    assert "there is none" in errors[0]
    assert "no regular file" in errors[1]
    assert errors[3] == "the response has fewer bytes than its content-length says"


async def test_responses_without_a_body_have_none(file: Path) -> None:
    with session_of(file) as session:
        session.site.fields = [(b"content-length", b"%d" % SIZE)]
        stream_id = await session.ask(method="HEAD")
        assert session.browser.headers[stream_id][b"content-length"] == b"%d" % SIZE
        assert (session.status(stream_id), session.body(stream_id)) == (b"200", b"")
        session.site.status = 304
        stream_id = await session.ask()
        assert (session.status(stream_id), session.body(stream_id)) == (b"304", b"")


async def test_an_empty_file_ends_at_once(file: Path) -> None:
    file.write_bytes(b"")
    with session_of(file) as session:
        stream_id = await session.ask()
        assert (session.status(stream_id), session.body(stream_id)) == (b"200", b"")


@pytest.mark.parametrize("takes", [False, True])
async def test_trailers_come_behind_the_file(file: Path, takes: bool) -> None:
    with session_of(file) as session:
        session.site.trailers = True
        fields = ((b"te", b"trailers"),) if takes else ()
        stream_id = await session.ask("/", "GET", *fields)
        assert session.body(stream_id) == file.read_bytes()
        # The browser keeps the fields that came last.
        assert (b"x-sum" in session.browser.headers[stream_id]) == takes


async def test_a_client_that_gives_up_ends_the_download(file: Path) -> None:
    with session_of(file) as session:
        stream_id = session.browser.request("GET", "/background")
        await session.run(lambda: session.body(stream_id))
        session.pair.client.connection.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        await session.run(lambda: not session.disk.files)
        assert not session.protocol.export_state()
        await session.run(lambda: session.over(stream_id))
        session.site.background.set()
        await session.run(lambda: session.site.returned)


async def test_a_request_body_that_nobody_reads_does_not_hold_the_client(file: Path) -> None:
    """Reading it is paused when the program names its file: the next owner must take it all."""
    with session_of(file) as session:
        stream_id = session.browser.request("POST", "/background", body=b"x" * 100, ends=False)
        await session.run(lambda: session.site.messages)
        move(session.pair.server)
        session.pair.client.connection.send_stream_data(stream_id, b"")
        await session.run(lambda: session.over(stream_id))
        assert session.body(stream_id) == file.read_bytes()
        await session.run(lambda: stream_id in session.browser.stops)
        assert session.browser.stops[stream_id] == ErrorCode.H3_NO_ERROR


# --- parts of open files ----------------------------------------------------------------------


async def test_parts_of_a_file_mix_with_bodies_and_the_last_one_moves(file: Path) -> None:
    data = file.read_bytes()[:400_000]
    file.write_bytes(data)
    whole = b"<" + data[:1000] + b">" + data[200_000:]
    with session_of(file) as session:
        session.site.fields = [(b"content-length", b"%d" % len(whole))]
        session.site.file = file.open("rb")
        stream_id = session.browser.request("GET", "/parts")
        await session.run(lambda: session.site.returned)
        session.site.file.close()  # its own is the program's

        def move_on() -> None:
            assert not session.protocol.running_streams()
            move(session.pair.server)

        await session.run(lambda: session.over(stream_id), move_on)
        assert session.body(stream_id) == whole


async def test_what_has_no_path_stays_with_its_task(file: Path) -> None:
    """On another host, or where too many files are open, nobody could open it again."""
    data = file.read_bytes()
    with session_of(file) as session:
        session.site.file = file.open("rb")
        file.unlink()
        stream_id = session.browser.request("GET", "/parts")
        await session.run(lambda: session.body(stream_id))
        assert stream_id in session.protocol.running_streams()
        await session.run(lambda: session.over(stream_id))
        assert session.body(stream_id) == b"<" + data[:1000] + b">" + data[SIZE // 2 :]
        session.site.file.close()


async def test_a_part_that_is_not_there_is_a_mistake_of_the_program(file: Path) -> None:
    with session_of(file) as session:
        for last in ({"count": SIZE}, {"offset": SIZE + 1}, {"offset": -1}):
            session.site.last = last
            session.site.file = file.open("rb")
            stream_id = await session.ask("/parts")
            assert session.browser.resets[stream_id] == ErrorCode.H3_INTERNAL_ERROR
            session.site.file.close()
