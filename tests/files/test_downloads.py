"""The rule for a file that changes while it is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from quicbaton.files import Folder
from quicbaton.files.downloads import Download, FileChangedError, Promise, begin_with, go_on
from quicbaton.files.open_files import OpenFiles
from quicbaton.files.refusal import RefusedRequestError

_OLD = bytes(range(256)) * 40
_NEW = bytes(reversed(_OLD))
_STEP = 100


def begin(folder: Folder) -> Download:
    """A download of the folder's only file, the first bytes of which are read."""
    shown = folder.represent(folder.locate("/f").path, None)
    promise = Promise(0, shown.path, shown.version, 0, shown.version.size, b"")
    download = Download(folder, promise, folder.hold(shown.file))
    assert download.read(_STEP) == _OLD[:_STEP]
    return download


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "f").write_bytes(_OLD)
    # No write of a test happens in the same tick of the kernel's clock.
    os.utime(tmp_path / "f", ns=(1, 1_000_000_001))
    return Folder(tmp_path)


def rest_of(download: Download) -> bytes:
    parts = []
    while not download.is_complete:
        parts.append(download.read(_STEP))
    return b"".join(parts)


def overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def set_back(path: Path) -> None:
    """Overwrite it, and have it look as before."""
    before_ns = path.stat().st_ctime_ns
    overwrite(path, _NEW)
    while path.stat().st_ctime_ns == before_ns:  # until the kernel's clock ticks, if it is coarse
        os.utime(path, ns=(1, 1_000_000_001))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(_NEW)
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path)


def link(path: Path) -> None:
    path.with_name("link").hardlink_to(path)


def cut_off(path: Path) -> None:
    os.truncate(path, 5000)


Change = Callable[[Path], object]

#: Changes of a file: whether a download that holds it goes on, and one that does not.
CHANGES: list[tuple[Change, bool, bool]] = [
    (lambda path: None, True, True),
    (lambda path: path.rename(path.with_name("away")), True, False),
    (lambda path: path.unlink(), True, False),
    (lambda path: path.chmod(0o600), True, False),
    (link, True, False),
    (replace, True, False),
    (append, True, False),
    (lambda path: overwrite(path, _NEW), False, False),
    (lambda path: overwrite(path, _NEW + b"longer"), False, False),
    (lambda path: path.write_bytes(_NEW), False, False),
    (lambda path: path.write_bytes(b""), False, False),
    (set_back, False, False),
    (cut_off, False, False),
    (touch, False, False),
]


@pytest.mark.parametrize(("change", "goes_on", "_"), CHANGES)
def test_a_download_that_holds_its_file(
    folder: Folder, change: Change, goes_on: bool, _: bool
) -> None:
    download = begin(folder)
    change(folder.root / "f")
    if goes_on:
        assert rest_of(download) == _OLD[_STEP:]
    else:
        with pytest.raises(FileChangedError):
            download.read(_STEP)
    download.release()
    assert len(folder.files) == 0


@pytest.mark.parametrize(("change", "_", "goes_on"), CHANGES)
def test_a_download_that_opens_its_file_for_each_read(
    folder: Folder, change: Change, _: bool, goes_on: bool
) -> None:
    folder = Folder(folder.root, files=OpenFiles(limit=0))
    download = begin(folder)
    assert len(folder.files) == 0
    change(folder.root / "f")
    if goes_on:
        assert rest_of(download) == _OLD[_STEP:]
    else:
        with pytest.raises(FileChangedError):
            download.read(_STEP)
    assert len(folder.files) == 0


@pytest.mark.parametrize(("change", "with_descriptor", "without"), CHANGES)
@pytest.mark.parametrize("passes", [True, False])
def test_a_download_that_goes_on_in_another_process(
    folder: Folder, change: Change, with_descriptor: bool, without: bool, passes: bool
) -> None:
    download = begin(folder)
    promise = msgspec.msgpack.decode(msgspec.msgpack.encode(download.promise), type=Promise)
    change(folder.root / "f")
    other = Folder(folder.root)
    passed = {}
    if passes:
        assert download.file is not None
        file = other.files.adopt(os.dup(download.file.descriptor))
        passed[file.key] = file
    try:
        rest = rest_of(go_on(other, promise, passed))
    except FileChangedError:
        assert not (with_descriptor if passes else without)
    else:
        assert with_descriptor if passes else without
        assert rest == _OLD[_STEP:]


def test_a_file_that_grew_and_was_overwritten_then_is_noticed(folder: Folder) -> None:
    download = begin(folder)
    append(folder.root / "f")
    download.read(_STEP)
    os.utime(folder.root / "f", ns=(1, 2_000_000_001))
    with pytest.raises(FileChangedError):
        download.read(_STEP)


def test_a_copy_that_kept_its_time_is_the_same_file(folder: Folder, tmp_path: Path) -> None:
    """As on another host, to which the folder was copied."""
    download = begin(folder)
    status = (folder.root / "f").stat()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "f").write_bytes(_OLD)
    os.utime(elsewhere / "f", ns=(1, status.st_mtime_ns))
    assert rest_of(go_on(Folder(elsewhere), download.promise, {})) == _OLD[_STEP:]


def test_a_time_of_whole_seconds_says_nothing_of_a_copy(folder: Folder, tmp_path: Path) -> None:
    os.utime(folder.root / "f", ns=(1, 1_000_000_000))
    download = begin(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "f").write_bytes(_NEW)
    os.utime(elsewhere / "f", ns=(1, 1_000_000_000))
    with pytest.raises(FileChangedError):
        go_on(Folder(elsewhere), download.promise, {})


def test_a_tag_changes_with_the_content_whatever_the_times_say(folder: Folder) -> None:
    def tag() -> bytes:
        shown = folder.represent(folder.locate("/f").path, None)
        shown.file.release()
        return shown.version.etag

    first = tag()
    assert tag() == first
    set_back(folder.root / "f")
    assert tag() != first


# --- parts of open files ----------------------------------------------------------------------


def test_a_part_of_an_open_file_has_a_descriptor_and_a_path_of_its_own(folder: Folder) -> None:
    with (folder.root / "f").open("rb") as file:
        download = begin_with(folder, 0, file.fileno(), 100, 50)
    assert download.is_named
    assert rest_of(download) == _OLD[100:150]
    download.release()
    assert len(folder.files) == 0


def test_a_file_that_its_path_does_not_lead_to_any_more_has_none(folder: Folder) -> None:
    with (folder.root / "f").open("rb") as file:
        replace(folder.root / "f")
        download = begin_with(folder, 0, file.fileno(), 0, None)
    assert not download.is_named
    assert rest_of(download) == _OLD
    download.release()


@pytest.mark.parametrize(
    ("offset", "count", "status"),
    [(0, len(_OLD) + 1, 416), (len(_OLD) + 1, None, 416), (-1, None, 416), (0, -1, 416)],
)
def test_a_part_that_is_not_there_is_refused(
    folder: Folder, offset: int, count: int | None, status: int
) -> None:
    with (folder.root / "f").open("rb") as file, pytest.raises(RefusedRequestError) as refused:
        begin_with(folder, 0, file.fileno(), offset, count)
    assert refused.value.status == status
    assert len(folder.files) == 0


def test_what_is_no_file_or_not_open_is_refused(folder: Folder) -> None:
    reading, writing = os.pipe()
    for descriptor, status in ((reading, 403), (writing, 403), (-1, 404)):
        with pytest.raises(RefusedRequestError) as refused:
            begin_with(folder, 0, descriptor, 0, 0)
        assert refused.value.status == status
    os.close(reading)
    os.close(writing)
