"""A folder as a page: its entries, their order, and that names cannot inject HTML."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quicbaton.files import Folder
from quicbaton.files.listing import Column, Listings, View, human_size
from quicbaton.files.listing_page import CONTENT_SECURITY_POLICY
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.limits import LISTING_LIFETIME_S, MAX_KEPT_LISTINGS, MAX_LISTED_ENTRIES


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "root"
    (root / "Sub" / "deeper").mkdir(parents=True)
    for name, size, mtime_s in (("b.txt", 10, 300), ("A.txt", 2_500_000, 100), ("c.txt", 0, 200)):
        (root / name).touch()
        os.truncate(root / name, size)
        os.utime(root / name, (mtime_s, mtime_s))
    return Folder(root)


def page(folder: Folder, view: View | None = None, path: str = "/", now: float = 0.0) -> str:
    return Listings(folder).page(folder.locate(path).path, view or View(), now).decode()


class Reader(HTMLParser):
    """Links, and what lies open of the page's elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        href = dict(attrs).get("href")
        if tag == "a" and href is not None:
            self.links.append(href)

    @property
    def names(self) -> list[str]:
        return [link[2:] for link in self.links if link.startswith("./")]


@pytest.mark.parametrize(
    ("view", "names"),
    [
        (View(), ["Sub/", "A.txt", "b.txt", "c.txt"]),
        (View(Column.NAME, True), ["Sub/", "c.txt", "b.txt", "A.txt"]),
        (View(Column.SIZE), ["Sub/", "c.txt", "b.txt", "A.txt"]),
        (View(Column.SIZE, True), ["Sub/", "A.txt", "b.txt", "c.txt"]),
        (View(Column.DATE), ["Sub/", "A.txt", "c.txt", "b.txt"]),
    ],
)
def test_folders_come_first_and_files_as_they_are_asked_for(
    folder: Folder, view: View, names: list[str]
) -> None:
    assert Reader(page(folder, view)).names == names


@pytest.mark.parametrize(
    ("target", "view"),
    [
        ("/", View()),
        ("/?sort=size&order=desc", View(Column.SIZE, True)),
        ("/?order=desc&sort=date&page=3#x", View(Column.DATE, True, 3)),
        ("/?sort=evil&order=&page=-1", View()),
        ("/?sort", View()),
        ("/?page=" + "9" * 5000, View()),
    ],
)
def test_a_query_says_how_to_sort(target: str, view: View) -> None:
    assert View.of(target) == view


def test_a_headers_link_sorts_and_turns_round(folder: Folder) -> None:
    links = Reader(page(folder, View(Column.SIZE))).links
    assert "?sort=size&order=desc" in links
    assert "?sort=name&order=asc" in links
    assert 'aria-sort="ascending"' in page(folder, View(Column.SIZE))


def test_sizes_and_dates_are_for_people(folder: Folder) -> None:
    text = page(folder)
    assert '<span title="2,500,000 bytes">2.5 MB</span>' in text
    assert '<time datetime="1970-01-01T00:05Z">1970-01-01 00:05</time>' in text
    assert "1 folder and 3 files, 2.5 MB" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_951, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (123_456_789, "123 MB"),
        (5 * 10**17, "500 PB"),
    ],
)
def test_a_size_has_three_digits_at_most(size: int, text: str) -> None:
    assert human_size(size) == text


def test_the_path_leads_back_up(folder: Folder) -> None:
    text = page(folder, path="/Sub/deeper/")
    assert Reader(text).links[:2] == ["../../", "../"]
    assert "<title>/Sub/deeper/</title>" in text
    assert "This folder is empty." in text


def test_names_are_shown_and_never_carried_out(folder: Folder) -> None:
    (folder.root / '"><script>alert(1)<').touch()
    (folder.root / "javascript:alert(1)").touch()
    (folder.root / "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe").touch()
    (folder.root / os.fsdecode(b"\xff\xfe")).touch()
    sub = folder.root / "<b>&amp;"
    sub.mkdir()
    read = Reader(page(folder))
    assert "script" not in read.tags
    assert "b" not in read.tags
    assert "./%22%3E%3Cscript%3Ealert%281%29%3C" in read.links
    assert "./%FF%FE" in read.links
    assert not [link for link in read.links if ":" in link]
    assert "<title>/&lt;b&gt;&amp;amp;/</title>" in page(folder, path="/%3Cb%3E&amp;/")


def test_a_page_loads_and_runs_nothing(folder: Folder) -> None:
    text = page(folder)
    read = Reader(text)
    assert not read.tags & {"script", "img", "iframe", "object", "embed", "form", "base"}
    assert not read.attributes & {"style", "src", "onclick", "srcset"}
    assert "//" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert style is not None
    digest = b64encode(sha256(style[1].encode()).digest())
    assert b"style-src 'sha256-" + digest + b"'" in CONTENT_SECURITY_POLICY
    assert b"default-src 'none'" in CONTENT_SECURITY_POLICY


def test_it_is_made_for_phones_and_for_the_dark(folder: Folder) -> None:
    text = page(folder)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text


def test_it_names_only_what_can_be_opened_from_there(folder: Folder) -> None:
    (folder.root / ".hidden").touch()
    (folder.root / "out").symlink_to("/etc")
    (folder.root / "nothing").symlink_to("none")
    (folder.root / "in").symlink_to("b.txt")
    assert Reader(page(folder)).names == ["Sub/", "A.txt", "b.txt", "c.txt", "in"]
    everything = Folder(folder.root, dotfiles=True)
    assert ".hidden" in Reader(page(everything)).names


def test_many_files_are_shown_on_several_pages(folder: Folder) -> None:
    for number in range(MAX_LISTED_ENTRIES):
        (folder.root / f"{number:05}").touch()
    first, second = Reader(page(folder)), Reader(page(folder, View(number=2)))
    assert len(first.names) == MAX_LISTED_ENTRIES
    assert set(first.names).isdisjoint(second.names)
    assert len(first.names) + len(second.names) == MAX_LISTED_ENTRIES + 4
    assert "?sort=name&order=asc&page=2" in first.links
    with pytest.raises(RefusedRequestError) as caught:
        page(folder, View(number=3))
    assert caught.value.status == 404


def test_a_page_is_kept_for_a_moment(folder: Folder) -> None:
    listings = Listings(folder)
    root = folder.locate("/").path
    first = listings.page(root, View(), 0.0)
    (folder.root / "new").touch()
    assert listings.page(root, View(), LISTING_LIFETIME_S) is first
    assert b"new" in listings.page(root, View(), LISTING_LIFETIME_S + 0.1)
    for number in range(2 * MAX_KEPT_LISTINGS):
        (folder.root / f"sub{number}").mkdir()
        listings.page(folder.locate(f"/sub{number}").path, View(), 0.0)
    assert len(listings._kept) == MAX_KEPT_LISTINGS


def test_a_folder_that_cannot_be_read_is_refused(folder: Folder) -> None:
    with pytest.raises(RefusedRequestError) as caught:
        Listings(folder).page(str(folder.root / "none"), View(), 0.0)
    assert caught.value.status == 404
