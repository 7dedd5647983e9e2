"""The file server over a pair with a virtual clock: answers, and moves in the middle of them."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import QuicEvent, StreamReset

from quicbaton.cli.file_server import H3_INTERNAL_ERROR, FileProtocol
from quicbaton.cli.folder import Folder
from quicbaton.http3 import H3Connection
from quicbaton.testing import Conditions, EndOptions, Pair, move

SIZE = 3_000_000


class Browser:
    """An HTTP/3 client that keeps what it gets."""

    def __init__(self, quic: Any) -> None:
        self._quic = quic
        self._http = H3Connection(quic)
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}

    def request(
        self, method: str, path: str, *fields: tuple[bytes, bytes], body: bytes = b""
    ) -> int:
        stream_id: int = self._quic.get_next_available_stream_id()
        pseudo = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(stream_id, [*headers, *fields], not body)
        if body:
            self._http.send_data(stream_id, body, True)
        return stream_id

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.headers[http_event.stream_id] = dict(http_event.headers)
            elif isinstance(http_event, DataReceived):
                self.bodies.setdefault(http_event.stream_id, bytearray()).extend(http_event.data)
            if getattr(http_event, "stream_ended", False):
                self.ended.add(http_event.stream_id)

    def export_state(self) -> bytes:
        return b""

    def import_state(self, data: bytes) -> None:
        pass


class Session:
    """A browser joined to a file server."""

    def __init__(self, root: Path) -> None:
        self.pair = Pair(
            Conditions(delay_s=0.005),
            client=EndOptions(create=Browser),
            server=EndOptions(create=partial(FileProtocol, folder=Folder(root))),
        )
        self.pair.connect()
        self.browser: Any = self.pair.client.application

    def ask(self, method: str, path: str, *fields: tuple[bytes, bytes], body: bytes = b"") -> int:
        """A request, run to the end of its answer."""
        stream_id: int = self.browser.request(method, path, *fields, body=body)
        self.pair.run(lambda: self.over(stream_id), seconds=30)
        return stream_id

    def over(self, stream_id: int) -> bool:
        return stream_id in self.browser.ended or stream_id in self.browser.resets

    def status(self, stream_id: int) -> int:
        return int(self.browser.headers[stream_id][b":status"])

    def body(self, stream_id: int) -> bytes:
        return bytes(self.browser.bodies.get(stream_id, b""))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(os.urandom(SIZE))
    (tmp_path / "empty").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<p>home")
    return tmp_path


def on_loop(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """Protocols belong to an event loop, though nothing here waits for it."""

    def run(root: Path) -> None:
        async def main() -> None:
            test(root)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@on_loop
def test_a_file_arrives_with_its_length_and_type(root: Path) -> None:
    session = Session(root)
    got = session.ask("GET", "/file.bin")
    assert session.status(got) == 200
    assert session.browser.headers[got][b"content-length"] == b"%d" % SIZE
    assert session.browser.headers[got][b"content-type"] == b"application/octet-stream"
    assert session.body(got) == (root / "file.bin").read_bytes()


@on_loop
def test_an_empty_file_ends_at_once(root: Path) -> None:
    session = Session(root)
    got = session.ask("GET", "/empty")
    assert (session.status(got), session.body(got)) == (200, b"")


@on_loop
def test_ranges_are_served(root: Path) -> None:
    session = Session(root)
    content = (root / "file.bin").read_bytes()
    for value, wanted in (
        (b"bytes=100-199", content[100:200]),
        (b"bytes=2999990-", content[2_999_990:]),
        (b"bytes=-10", content[-10:]),
        (b"bytes=2999990-9999999", content[2_999_990:]),
    ):
        got = session.ask("GET", "/file.bin", (b"range", value))
        assert (session.status(got), session.body(got)) == (206, wanted)
    assert session.browser.headers[got][b"content-range"] == b"bytes 2999990-2999999/3000000"


@on_loop
def test_a_range_beyond_the_end_is_refused_and_a_strange_one_ignored(root: Path) -> None:
    session = Session(root)
    assert session.status(session.ask("GET", "/file.bin", (b"range", b"bytes=3000000-"))) == 416
    for value in (b"bytes=1-2,4-5", b"lines=1-2", b"bytes=-", b"bytes=x-"):
        assert session.status(session.ask("GET", "/empty", (b"range", value))) == 200


@on_loop
def test_folders_answer_with_their_index_or_a_listing(root: Path) -> None:
    session = Session(root)
    assert session.body(session.ask("GET", "/site/")) == b"<p>home"
    assert b'href="./file.bin"' in session.body(session.ask("GET", "/"))
    moved = session.ask("GET", "//sub")
    assert session.status(moved) == 301
    assert session.browser.headers[moved][b"location"] == b"/sub/"


@on_loop
def test_other_methods_are_refused_and_their_bodies_dropped(root: Path) -> None:
    session = Session(root)
    posted = session.ask("POST", "/file.bin", body=os.urandom(100_000))
    assert session.status(posted) == 405
    assert session.browser.headers[posted][b"allow"] == b"GET, HEAD"
    assert session.status(session.ask("GET", "/none")) == 404
    assert session.status(session.ask("GET", "/../etc/passwd")) == 403


@on_loop
def test_downloads_survive_a_move_after_every_event(root: Path) -> None:
    session = Session(root)
    streams = [session.browser.request("GET", "/file.bin") for _ in range(3)]
    moves = 0
    while not all(session.over(stream_id) for stream_id in streams):
        for _ in range(20):
            session.pair.step()
        move(session.pair.server)
        moves += 1
    assert moves > 20
    content = (root / "file.bin").read_bytes()
    assert all(session.body(stream_id) == content for stream_id in streams)


@on_loop
def test_a_stopped_download_is_forgotten(root: Path) -> None:
    session = Session(root)
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    assert session.pair.server.application is not None
    assert session.pair.server.application.export_state() != b""
    session.pair.client.connection.stop_stream(stream_id, 0x10C)
    session.pair.run(seconds=1)
    assert session.pair.server.application.export_state() == b""


@on_loop
def test_a_file_that_changed_under_a_move_resets_the_stream(root: Path) -> None:
    session = Session(root)
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    (root / "file.bin").write_bytes(os.urandom(SIZE))
    move(session.pair.server)
    session.pair.run(lambda: session.over(stream_id), seconds=5)
    assert session.browser.resets == {stream_id: H3_INTERNAL_ERROR}
    # Other requests of the connection go on.
    assert session.status(session.ask("GET", "/site/")) == 200


@on_loop
def test_a_file_that_is_cut_off_while_it_is_served_resets_the_stream(root: Path) -> None:
    session = Session(root)
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    os.truncate(root / "file.bin", SIZE // 2)
    session.pair.run(lambda: session.over(stream_id), seconds=5)
    assert session.browser.resets == {stream_id: H3_INTERNAL_ERROR}
