"""The files that paths name and must not name, and which of several encodings is sent."""

import os
from pathlib import Path

import pytest

from quicbaton.files import Folder
from quicbaton.files.folder import Representation, redirect_target
from quicbaton.files.open_files import OpenFiles
from quicbaton.files.refusal import RefusedRequestError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a b.txt").write_bytes(b"hello")
    (root / "sub" / "c.bin").write_bytes(b"0123456789")
    (tmp_path / "secret").write_text("outside")
    return Folder(root)


def find(folder: Folder, target: str, accepted: bytes | None = None) -> Representation:
    return folder.represent(folder.locate(target).path, accepted)


def status_of(folder: Folder, target: str) -> int:
    with pytest.raises(RefusedRequestError) as caught:
        find(folder, target)
    assert len(folder.files) == 0
    return caught.value.status


# --- names ------------------------------------------------------------------------------------


def test_percent_encoded_names_are_found(folder: Folder) -> None:
    found = find(folder, "/a%20b.txt?query")
    assert (found.path, found.version.size) == ("a b.txt", 5)
    assert found.content_type == "text/plain; charset=utf-8"


def test_names_that_are_not_utf8_are_served(folder: Folder) -> None:
    (folder.root / os.fsdecode(b"\xff\xfe")).write_bytes(b"odd")
    found = find(folder, "/%FF%FE")
    assert found.version.size == 3
    assert Path(folder.path_of(found.path)).read_bytes() == b"odd"


@pytest.mark.parametrize(
    "target",
    ["/../secret", "/%2e%2e/secret", "/sub/../../secret", "//../secret", "/..", "/../none"],
)
def test_dot_segments_do_not_lead_outside(folder: Folder, target: str) -> None:
    assert status_of(folder, target) == 403


def test_links_do_not_lead_outside(folder: Folder) -> None:
    (folder.root / "out").symlink_to(folder.root.parent / "secret")
    (folder.root / "up").symlink_to(folder.root.parent)
    assert status_of(folder, "/out") == 403
    assert status_of(folder, "/up/secret") == 403


def test_links_inside_are_followed(folder: Folder) -> None:
    (folder.root / "in").symlink_to("sub/c.bin")
    assert find(folder, "/in").path == "sub/c.bin"


def test_a_loop_of_links_is_not_found(folder: Folder) -> None:
    (folder.root / "loop").symlink_to("loop")
    assert status_of(folder, "/loop") in (403, 404)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/none", 404),
        ("/sub/c.bin/", 404),
        ("/sub/c.bin/more", 404),
        ("none", 400),
        ("", 400),
        ("/a%00b", 400),
        ("*", 400),
        ("/sub", 403),
        ("/" + "x" * 300, 404),
        ("/" + "x" * 5000, 414),
        ("/" + "./" * 1000, 414),
    ],
)
def test_what_is_no_path_or_no_file_is_refused(folder: Folder, target: str, status: int) -> None:
    assert status_of(folder, target) == status


def test_a_fifo_is_refused_at_once(folder: Folder) -> None:
    os.mkfifo(folder.root / "pipe")
    assert status_of(folder, "/pipe") == 403


def test_a_redirect_stays_on_this_host() -> None:
    assert redirect_target("//evil.example/sub") == b"/evil.example/sub/"


# --- names that begin with a dot --------------------------------------------------------------

_HIDDEN = ("/.env", "/.git/config", "/sub/.env", "/sub/../.env", "/%2eenv", "/sub%2F.env")


@pytest.fixture
def dotted(folder: Folder) -> Folder:
    for name in (".env", "sub/.env", ".git/config", ".well-known/security.txt"):
        path = folder.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
    (folder.root / ".well-known" / ".env").write_text("secret")
    return folder


@pytest.mark.parametrize("target", [*_HIDDEN, "/.well-known/.env", "/.none"])
def test_hidden_files_are_not_there(dotted: Folder, target: str) -> None:
    assert status_of(dotted, target) == 404


@pytest.mark.parametrize("target", _HIDDEN)
def test_hidden_files_are_served_where_that_is_asked_for(dotted: Folder, target: str) -> None:
    assert find(Folder(dotted.root, dotfiles=True), target).version.size == 6


def test_well_known_files_are_for_everybody(dotted: Folder) -> None:
    find(dotted, "/.well-known/security.txt").file.release()
    (dotted.root / "sub" / ".well-known").mkdir()
    assert status_of(dotted, "/sub/.well-known/security.txt") == 404


# --- files that lie there compressed ----------------------------------------------------------


@pytest.fixture
def page(folder: Folder) -> Path:
    page = folder.root / "page.html"
    page.write_text("<p>hello")
    for suffix, content in ((".br", b"br"), (".zst", b"zst"), (".gz", b"gz")):
        (folder.root / f"page.html{suffix}").write_bytes(content)
    return page


@pytest.mark.parametrize(
    ("accepted", "coding", "content"),
    [
        (b"gzip, br, zstd", b"br", b"br"),
        (b"zstd, gzip", b"zstd", b"zst"),
        (b"gzip", b"gzip", b"gz"),
        (b"identity", b"", b"<p>hello"),
        (None, b"", b"<p>hello"),
    ],
)
def test_the_sibling_that_a_client_prefers_is_sent(
    folder: Folder, page: Path, accepted: bytes | None, coding: bytes, content: bytes
) -> None:
    found = find(folder, "/page.html", accepted)
    assert (found.coding, found.varies) == (coding, True)
    assert found.content_type == "text/html; charset=utf-8"
    assert os.pread(found.file.descriptor, 100, 0) == content
    found.file.release()
    assert len(folder.files) == 0


def test_each_encoding_has_a_tag_of_its_own(folder: Folder, page: Path) -> None:
    tags = {
        find(folder, "/page.html", accepted).version.etag
        for accepted in (b"br", b"zstd", b"gzip", None)
    }
    assert len(tags) == 4


def test_a_sibling_that_is_older_than_the_file_is_not_used(folder: Folder, page: Path) -> None:
    mtime_ns = page.stat().st_mtime_ns
    for suffix in (".br", ".zst"):
        os.utime(folder.root / f"page.html{suffix}", ns=(0, mtime_ns - 1))
    os.utime(folder.root / "page.html.gz", ns=(0, mtime_ns))
    assert find(folder, "/page.html", b"br, zstd, gzip").coding == b"gzip"
    os.utime(page, ns=(0, mtime_ns + 1))
    found = find(folder, "/page.html", b"br, zstd, gzip")
    assert (found.coding, found.varies) == (b"", False)


def test_a_sibling_that_is_no_file_of_the_folder_is_not_used(folder: Folder, page: Path) -> None:
    for suffix in (".br", ".zst", ".gz"):
        sibling = folder.root / f"page.html{suffix}"
        sibling.unlink()
        if suffix == ".zst":
            sibling.mkdir()
        else:
            sibling.symlink_to(folder.root.parent / "secret")
    assert find(folder, "/page.html", b"br, zstd, gzip").coding == b""


def test_an_archive_is_sent_as_what_it_is(folder: Folder, page: Path) -> None:
    found = find(folder, "/page.html.gz", b"gzip")
    assert (found.coding, found.content_type) == (b"", "application/gzip")
    assert not found.varies


# --- open files -------------------------------------------------------------------------------


def test_a_file_is_open_once_however_many_use_it(folder: Folder) -> None:
    one, two = find(folder, "/sub/c.bin").file, find(folder, "/sub/c.bin").file
    assert one is two
    assert len(folder.files) == 1
    one.release()
    assert os.pread(two.descriptor, 3, 0) == b"012"
    two.release()
    assert len(folder.files) == 0
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(two.descriptor)


def test_a_passed_descriptor_that_is_of_no_use_is_closed(folder: Folder, tmp_path: Path) -> None:
    files = OpenFiles()
    for descriptor in (
        os.open(tmp_path, os.O_RDONLY),
        os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT),
        os.open("/dev/null", os.O_RDONLY),
    ):
        with pytest.raises(RefusedRequestError):
            files.adopt(descriptor)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)
    assert len(files) == 0


def test_a_passed_descriptor_of_a_file_that_is_open_here_is_closed(folder: Folder) -> None:
    known = find(folder, "/sub/c.bin").file
    passed = os.dup(known.descriptor)
    assert folder.files.adopt(passed) is known
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(passed)
