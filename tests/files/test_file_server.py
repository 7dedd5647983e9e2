"""The file server over a pair with a virtual clock: answers, and moves in the middle of them."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quicbaton.files import Folder
from quicbaton.files.dates import http_date, parse_date
from quicbaton.files.open_files import OpenFiles
from quicbaton.files.protocol import FileProtocol
from quicbaton.http3.codes import ErrorCode
from quicbaton.testing import Conditions, EndOptions, Pair, move
from tests.files.browser import Browser

SIZE = 3_000_000


class Session:
    """A browser joined to a file server."""

    def __init__(self, root: Path, folder: Folder | None = None) -> None:
        folder = folder or Folder(root)
        self.pair = Pair(
            Conditions(delay_s=0.005),
            client=EndOptions(create=Browser),
            server=EndOptions(create=partial(FileProtocol, folder=folder)),
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

    def field(self, stream_id: int, name: str) -> bytes | None:
        found: bytes | None = self.browser.headers[stream_id].get(name.encode())
        return found

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


async def test_a_file_arrives_with_its_length_and_type(root: Path) -> None:
    session = Session(root)
    got = session.ask("GET", "/file.bin")
    assert session.status(got) == 200
    assert session.browser.headers[got][b"content-length"] == b"%d" % SIZE
    assert session.browser.headers[got][b"content-type"] == b"application/octet-stream"
    assert session.body(got) == (root / "file.bin").read_bytes()


async def test_an_empty_file_ends_at_once(root: Path) -> None:
    session = Session(root)
    got = session.ask("GET", "/empty")
    assert (session.status(got), session.body(got)) == (200, b"")


async def test_ranges_are_served(root: Path) -> None:
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


async def test_a_range_beyond_the_end_is_refused_and_a_strange_one_ignored(root: Path) -> None:
    session = Session(root)
    beyond = session.ask("GET", "/file.bin", (b"range", b"bytes=3000000-"))
    assert session.status(beyond) == 416
    assert session.field(beyond, "content-range") == b"bytes */3000000"
    for value in (b"bytes=1-2,4-5", b"lines=1-2", b"bytes=-", b"bytes=x-"):
        assert session.status(session.ask("GET", "/empty", (b"range", value))) == 200


async def test_a_head_is_answered_as_if_it_had_no_range(root: Path) -> None:
    """§14.2: Range is for GET."""
    session = Session(root)
    head = session.ask("HEAD", "/file.bin", (b"range", b"bytes=0-9"))
    assert session.status(head) == 200
    assert session.field(head, "content-length") == b"%d" % SIZE
    assert session.body(head) == b""
    assert session.status(session.ask("HEAD", "/")) == 200


async def test_every_answer_has_a_date(root: Path) -> None:
    session = Session(root)
    for path in ("/file.bin", "/", "/sub", "/none"):
        date = session.field(session.ask("GET", path), "date")
        assert date is not None
        now = parse_date(date)
        assert now is not None
        assert abs(now - time.time()) < 60


async def test_a_client_that_has_the_file_does_not_get_it_again(root: Path) -> None:
    session = Session(root)
    first = session.ask("GET", "/file.bin")
    tag, modified = session.field(first, "etag"), session.field(first, "last-modified")
    assert tag is not None
    assert modified == http_date(int((root / "file.bin").stat().st_mtime))
    for condition in ((b"if-none-match", tag), (b"if-modified-since", modified)):
        again = session.ask("GET", "/file.bin", condition)
        assert (session.status(again), session.body(again)) == (304, b"")
        assert session.field(again, "etag") == tag
        assert session.field(again, "date") is not None
        assert session.field(again, "content-length") is None
    (root / "file.bin").write_bytes(b"other")
    other = session.ask("GET", "/file.bin", (b"if-none-match", tag))
    assert (session.status(other), session.body(other)) == (200, b"other")


async def test_a_precondition_that_fails_is_said(root: Path) -> None:
    session = Session(root)
    for condition in ((b"if-match", b'"other"'), (b"if-unmodified-since", http_date(0))):
        assert session.status(session.ask("GET", "/file.bin", condition)) == 412
    # §13.2.1: they are about a file that is there.
    assert session.status(session.ask("GET", "/none", (b"if-match", b'"other"'))) == 404


async def test_a_download_is_resumed_only_if_it_is_the_same_file(root: Path) -> None:
    session = Session(root)
    content = (root / "file.bin").read_bytes()
    first = session.ask("GET", "/file.bin")
    tag = session.field(first, "etag")
    assert tag is not None
    some = (b"range", b"bytes=2999990-")
    resumed = session.ask("GET", "/file.bin", some, (b"if-range", tag))
    assert (session.status(resumed), session.body(resumed)) == (206, content[-10:])
    (root / "new").write_bytes(content[::-1])
    (root / "new").replace(root / "file.bin")
    whole = session.ask("GET", "/file.bin", some, (b"if-range", tag))
    assert (session.status(whole), session.body(whole)) == (200, content[::-1])


async def test_a_file_from_the_future_is_dated_now(root: Path) -> None:
    session = Session(root)
    os.utime(root / "file.bin", (time.time() + 1000, time.time() + 1000))
    got = session.ask("GET", "/file.bin")
    assert session.field(got, "last-modified") == session.field(got, "date")


async def test_a_compressed_file_beside_it_is_sent_to_who_understands_it(root: Path) -> None:
    session = Session(root)
    (root / "site" / "index.html.br").write_bytes(b"0123456789")
    accepts = (b"accept-encoding", b"gzip, br")
    plain, packed = session.ask("GET", "/site/"), session.ask("GET", "/site/", accepts)
    assert (session.body(plain), session.body(packed)) == (b"<p>home", b"0123456789")
    assert session.field(packed, "content-encoding") == b"br"
    assert session.field(packed, "content-type") == b"text/html; charset=utf-8"
    assert session.field(plain, "content-encoding") is None
    assert {session.field(got, "vary") for got in (plain, packed)} == {b"accept-encoding"}
    tag = session.field(packed, "etag")
    assert tag is not None
    assert tag != session.field(plain, "etag")
    # A range is one of what is sent.
    some = session.ask("GET", "/site/", accepts, (b"range", b"bytes=3-5"), (b"if-range", tag))
    assert (session.status(some), session.body(some)) == (206, b"345")
    assert session.field(some, "content-range") == b"bytes 3-5/10"
    same = session.ask("GET", "/site/", accepts, (b"if-none-match", tag))
    assert (session.status(same), session.field(same, "vary")) == (304, b"accept-encoding")
    nothing = (b"accept-encoding", b"zstd, identity;q=0")
    assert session.status(session.ask("GET", "/site/", nothing)) == 406


async def test_a_listing_comes_with_its_policy_and_a_tag(root: Path) -> None:
    session = Session(root)
    listed = session.ask("GET", "/?sort=size&order=desc")
    assert session.body(listed).index(b"./file.bin") < session.body(listed).index(b"./empty")
    policy = session.field(listed, "content-security-policy")
    assert policy is not None
    assert policy.startswith(b"default-src 'none'")
    tag = session.field(listed, "etag")
    assert tag is not None
    again = session.ask("GET", "/?sort=size&order=desc", (b"if-none-match", tag))
    assert session.status(again) == 304


async def test_folders_answer_with_their_index_or_a_listing(root: Path) -> None:
    session = Session(root)
    assert session.body(session.ask("GET", "/site/")) == b"<p>home"
    assert b'href="./file.bin"' in session.body(session.ask("GET", "/"))
    moved = session.ask("GET", "//sub")
    assert session.status(moved) == 301
    assert session.browser.headers[moved][b"location"] == b"/sub/"


async def test_other_methods_are_refused_and_their_bodies_dropped(root: Path) -> None:
    session = Session(root)
    posted = session.ask("POST", "/file.bin", body=os.urandom(100_000))
    assert session.status(posted) == 405
    assert session.browser.headers[posted][b"allow"] == b"GET, HEAD"
    # There is nothing to stop of a request that came as a whole.
    empty = session.ask("POST", "/file.bin")
    assert session.status(empty) == 405
    assert empty not in session.browser.stops
    assert session.status(session.ask("GET", "/none")) == 404
    assert session.status(session.ask("GET", "/../etc/passwd")) == 403


async def test_an_upload_that_nobody_will_read_is_stopped_without_an_error(root: Path) -> None:
    """RFC 9114 §4.1: the answer stands, whatever of the request is still to come."""
    session = Session(root)
    for method, path, status in (("POST", "/file.bin", 405), ("PUT", "/none", 405)):
        refused = session.browser.request(method, path, body=b"x" * 1000, ends=False)
        session.pair.run(lambda refused=refused: refused in session.browser.stops, seconds=5)
        assert refused in session.browser.ended
        assert session.status(refused) == status
        assert session.browser.stops[refused] == ErrorCode.H3_NO_ERROR
        assert refused not in session.browser.resets


async def test_a_download_with_a_request_that_does_not_end_is_whole_and_stops_it_then(
    root: Path,
) -> None:
    session = Session(root)
    got = session.browser.request("GET", "/file.bin", body=b"x" * 1000, ends=False)
    session.pair.run(lambda: len(session.body(got)) > 0, seconds=5)
    move(session.pair.server)
    assert got not in session.browser.stops
    session.pair.run(lambda: session.over(got), seconds=5)
    assert session.body(got) == (root / "file.bin").read_bytes()
    assert got in session.browser.ended
    session.pair.run(lambda: got in session.browser.stops, seconds=5)
    assert session.browser.stops[got] == ErrorCode.H3_NO_ERROR


async def test_downloads_survive_a_move_after_every_event(root: Path) -> None:
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


async def test_a_stopped_download_is_forgotten(root: Path) -> None:
    session = Session(root)
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    assert session.pair.server.application is not None
    assert session.pair.server.application.export_state() != b""
    session.pair.client.connection.stop_stream(stream_id, 0x10C)
    session.pair.run(seconds=1)
    assert session.pair.server.application.export_state() == b""


async def test_a_file_that_changed_under_a_move_resets_the_stream(root: Path) -> None:
    session = Session(root)
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    (root / "file.bin").write_bytes(os.urandom(SIZE))
    move(session.pair.server)
    session.pair.run(lambda: session.over(stream_id), seconds=5)
    assert session.browser.resets == {stream_id: ErrorCode.H3_INTERNAL_ERROR}
    # Other requests of the connection go on.
    assert session.status(session.ask("GET", "/site/")) == 200


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        *(("replaced", True), ("deleted", True), ("appended", True)),
        *(("overwritten", False), ("touched", False), ("cut_off", False)),
    ],
)
async def test_what_becomes_of_a_file_decides_alike_with_and_without_a_move(
    root: Path, change: str, goes_on: bool, moves: bool
) -> None:
    session = Session(root)
    path = root / "file.bin"
    content = path.read_bytes()
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    change_file(path, change)
    if moves:
        move(session.pair.server)
    session.pair.run(lambda: session.over(stream_id), seconds=30)
    assert (stream_id in session.browser.ended) is goes_on
    assert content.startswith(session.body(stream_id))
    if goes_on:
        assert session.body(stream_id) == content
    else:
        assert session.browser.resets == {stream_id: ErrorCode.H3_INTERNAL_ERROR}


@pytest.mark.parametrize("replaced", [False, True])
async def test_another_host_goes_on_only_with_the_same_content(root: Path, replaced: bool) -> None:
    """No open file goes there."""
    session = Session(root)
    stream_id = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stream_id)) > 0, seconds=5)
    if replaced:
        change_file(root / "file.bin", "replaced")
    move(session.pair.server, other_host=True)
    session.pair.run(lambda: session.over(stream_id), seconds=30)
    assert (stream_id in session.browser.resets) is replaced


def change_file(path: Path, change: str) -> None:
    match change:
        case "replaced":
            path.with_name("new").write_bytes(os.urandom(SIZE))
            path.with_name("new").replace(path)
        case "deleted":
            path.unlink()
        case "appended":
            with path.open("ab") as file:
                file.write(b"more")
        case "overwritten":
            with path.open("r+b") as file:
                file.write(os.urandom(SIZE))
        case "touched":
            os.utime(path)
        case "cut_off":
            os.truncate(path, SIZE // 2)


async def test_more_files_than_may_be_open_are_downloaded_all_the_same(root: Path) -> None:
    for number in range(6):
        (root / f"{number}").write_bytes(os.urandom(SIZE // 3))
    folder = Folder(root, files=OpenFiles(limit=2))
    session = Session(root, folder)
    streams = [session.browser.request("GET", f"/{number}") for number in range(6)]
    # They are sent one after the other (RFC 9218 §10); all have begun.
    protocol: Any = session.pair.server.application
    session.pair.run(lambda: len(protocol._downloads) == 6, seconds=5)
    assert len(folder.files) == 2
    session.pair.run(lambda: all(map(session.over, streams)), seconds=30)
    for number, stream_id in enumerate(streams):
        assert session.body(stream_id) == (root / f"{number}").read_bytes()
    assert len(folder.files) == 0


async def test_no_file_stays_open_whatever_ends_a_download(root: Path) -> None:
    folder = Folder(root)
    session = Session(root, folder)
    done = session.ask("GET", "/file.bin")
    assert len(session.body(done)) == SIZE
    for method, path, *fields in (
        ("HEAD", "/file.bin"),
        ("GET", "/file.bin", (b"if-none-match", b"*")),
        ("GET", "/file.bin", (b"if-match", b'"x"')),
        ("GET", "/file.bin", (b"range", b"bytes=9999999-")),
        ("GET", "/empty"),
    ):
        session.ask(method, path, *fields)
    assert len(folder.files) == 0
    stopped = session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(session.body(stopped)) > 0, seconds=5)
    assert len(folder.files) == 1
    session.pair.client.connection.stop_stream(stopped, 0x10C)
    session.pair.run(seconds=1)
    assert len(folder.files) == 0
    session.browser.request("GET", "/file.bin")
    session.pair.run(lambda: len(folder.files) == 1, seconds=5)
    session.pair.client.connection.close()
    session.pair.run(seconds=5)
    assert len(folder.files) == 0
