"""What paths name, and what they must not."""

import os
from pathlib import Path

import pytest

from quicbaton.cli.folder import Folder, FolderError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a b.txt").write_bytes(b"hello")
    (root / "sub" / "c.bin").write_bytes(b"0123456789")
    (tmp_path / "secret").write_text("outside")
    return Folder(root)


def status_of(folder: Folder, target: str) -> int:
    with pytest.raises(FolderError) as caught:
        folder.describe(folder.locate(target))
    return caught.value.status


def test_percent_encoded_names_are_found(folder: Folder) -> None:
    file = folder.describe(folder.locate("/a%20b.txt?query"))
    assert (file.path, file.identity.size, file.content_type) == ("a b.txt", 5, "text/plain")


def test_names_that_are_not_utf8_are_served_and_listed(folder: Folder) -> None:
    name = os.fsdecode(b"\xff\xfe")
    (folder.root / name).write_bytes(b"odd")
    file = folder.describe(folder.locate("/%FF%FE"))
    assert folder.read(file, 0, 3) == b"odd"
    assert folder.has(file)
    assert b'href="./%FF%FE"' in folder.list(folder.root)


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
    assert folder.describe(folder.locate("/in")).path == "sub/c.bin"


def test_a_loop_of_links_is_not_found(folder: Folder) -> None:
    (folder.root / "loop").symlink_to("loop")
    assert status_of(folder, "/loop") in (403, 404)


@pytest.mark.parametrize(
    ("target", "status"), [("/none", 404), ("none", 400), ("", 400), ("/a%00b", 400), ("*", 400)]
)
def test_what_is_no_path_or_no_file_is_refused(folder: Folder, target: str, status: int) -> None:
    assert status_of(folder, target) == status


def test_a_fifo_is_refused_at_once(folder: Folder) -> None:
    os.mkfifo(folder.root / "pipe")
    assert status_of(folder, "/pipe") == 403


def test_reading_notices_a_file_that_was_replaced(folder: Folder) -> None:
    file = folder.describe(folder.locate("/sub/c.bin"))
    assert folder.read(file, 4, 3) == b"456"
    other = folder.root / "other"
    other.write_bytes(b"abcdefghij")
    other.replace(folder.root / "sub" / "c.bin")
    with pytest.raises(FolderError):
        folder.read(file, 4, 3)


def test_reading_notices_a_file_that_was_cut_off(folder: Folder) -> None:
    file = folder.describe(folder.locate("/sub/c.bin"))
    os.truncate(folder.root / "sub" / "c.bin", 5)
    with pytest.raises(FolderError):
        folder.read(file, 0, 3)


def test_a_file_that_grows_is_read_as_it_was(folder: Folder) -> None:
    file = folder.describe(folder.locate("/sub/c.bin"))
    with (folder.root / "sub" / "c.bin").open("ab") as log:
        log.write(b"more")
    assert folder.read(file, 8, 2) == b"89"
    # Another process cannot know that only the end is new.
    assert not folder.has(file)


def test_listing_escapes_names_and_hides_dot_files(folder: Folder) -> None:
    (folder.root / "<b>&.txt").touch()
    (folder.root / ".hidden").touch()
    page = folder.list(folder.root).decode()
    assert "&lt;b&gt;&amp;.txt" in page
    assert "<b>" not in page
    assert 'href="./%3Cb%3E%26.txt"' in page
    assert 'href="./sub/"' in page
    assert ".hidden" not in page
