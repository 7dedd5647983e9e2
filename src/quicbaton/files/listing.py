"""A folder as a page for people: its entries, folders first, sorted as the reader asks."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple
from urllib.parse import quote

from quicbaton.files.folder import Folder
from quicbaton.files.listing_page import ICON_OF_FILE, ICON_OF_FOLDER, page
from quicbaton.files.open_files import status_of
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.limits import (
    LISTING_LIFETIME_S,
    MAX_KEPT_LISTINGS,
    MAX_LISTED_ENTRIES,
    MAX_SCANNED_ENTRIES,
)

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")


class Column(StrEnum):
    """The columns by which a listing can be sorted."""

    NAME = "name"
    SIZE = "size"
    DATE = "date"


class View(NamedTuple):
    """Which part of a listing is shown, and how it is sorted."""

    column: Column = Column.NAME
    descending: bool = False
    number: int = 1  # of the page

    @classmethod
    def of(cls, target: str) -> View:
        """The view that a request target's query asks for, as `?sort=size&order=desc&page=2`.
        Unknown keys and values are ignored."""
        query = target.partition("#")[0].partition("?")[2]
        values = dict(pair.partition("=")[::2] for pair in query.split("&"))
        sort, number = values.get("sort", ""), values.get("page", "")
        return cls(
            Column(sort) if sort in list(Column) else Column.NAME,
            values.get("order") == "desc",
            int(number) if number.isascii() and number.isdigit() and len(number) < 5 else 1,
        )

    @property
    def query(self) -> str:
        """The query, escaped for a link in HTML."""
        page = f"&amp;page={self.number}" if self.number != 1 else ""
        return f"?sort={self.column}&amp;order={'desc' if self.descending else 'asc'}{page}"


class _Entry(NamedTuple):
    name: str
    is_folder: bool
    size: int
    mtime_s: int


class Listings:
    """Makes listings, and keeps the latest for a moment. Reading a folder of ten thousand files
    takes some 30 ms, which one client must not be able to ask for again and again."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._kept: dict[tuple[str, View], tuple[float, bytes]] = {}

    def page(self, found: str, view: View, now: float) -> bytes:
        """The page of a located folder. RefusedRequestError: the folder cannot be read, or has no
        such page."""
        key = (found, view)
        kept = self._kept.pop(key, None)
        if kept is None or now - kept[0] > LISTING_LIFETIME_S:
            kept = (now, self._make(found, view).encode())
        # The listing that was asked for last is dropped last.
        self._kept[key] = kept
        while len(self._kept) > MAX_KEPT_LISTINGS:
            del self._kept[next(iter(self._kept))]
        return kept[1]

    def _make(self, found: str, view: View) -> str:
        entries, is_whole = self._read(found)
        entries.sort(key=_SORT_KEYS[view.column], reverse=view.descending)
        # The sort is stable: it keeps the order within folders and within files.
        entries.sort(key=lambda entry: not entry.is_folder)
        start = (view.number - 1) * MAX_LISTED_ENTRIES
        shown = entries[start : start + MAX_LISTED_ENTRIES]
        if not shown and view.number != 1:
            raise RefusedRequestError(404)
        title = self._folder.title_of(found)
        parts = [
            _table(shown, view),
            _other_pages(len(entries), view),
            f"<p>{_summary(entries, is_whole=is_whole)}</p>",
        ]
        return page(_show(title), _breadcrumb(title), "\n".join(filter(None, parts)))

    def _read(self, found: str) -> tuple[list[_Entry], bool]:
        entries: list[_Entry] = []
        try:
            with os.scandir(found) as listed:
                for entry in islice(listed, MAX_SCANNED_ENTRIES):
                    if not self._folder.shows(entry):
                        continue
                    try:
                        status = entry.stat()
                        is_folder = entry.is_dir()
                    except OSError:
                        continue  # gone, or a link to nothing
                    entries.append(
                        _Entry(entry.name, is_folder, status.st_size, int(status.st_mtime))
                    )
                is_whole = next(listed, None) is None
        except OSError as error:
            raise RefusedRequestError(status_of(error)) from error
        return entries, is_whole


_SORT_KEYS: Final[dict[Column, Callable[[_Entry], tuple[int, str, str]]]] = {
    Column.NAME: lambda entry: (0, entry.name.casefold(), entry.name),
    Column.SIZE: lambda entry: (0 if entry.is_folder else entry.size, entry.name, ""),
    Column.DATE: lambda entry: (entry.mtime_s, entry.name, ""),
}


def _breadcrumb(title: str) -> str:
    """Links to the folders above. They are relative, so that they hold below any prefix."""
    names = [name for name in title.split("/") if name]
    parts = []
    for depth, name in enumerate(["", *names]):
        text = "<bdi>" + _show(name) + "</bdi>" if name else "Home"
        up = len(names) - depth
        parts.append(f'<a href="{"../" * up}">{text}</a>' if up else text)
    return "<span>/</span>".join(parts)


def _table(entries: Sequence[_Entry], view: View) -> str:
    if not entries:
        return ""
    columns = (
        (Column.NAME, "name", "Name"),
        (Column.SIZE, "size", "Size"),
        (Column.DATE, "date", "Modified (UTC)"),
    )
    head = "".join(_header(column, kind, text, view) for column, kind, text in columns)
    rows = "\n".join(map(_row, entries))
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _header(column: Column, kind: str, text: str, view: View) -> str:
    is_chosen = column is view.column
    # A second click on a column reverses its order.
    link = View(column, is_chosen and not view.descending).query
    sort = mark = ""
    if is_chosen:
        sort = f' aria-sort="{"descending" if view.descending else "ascending"}"'
        mark = " ↓" if view.descending else " ↑"
    return f'<th class="{kind}" scope="col"{sort}><a href="{link}">{text}{mark}</a></th>'


def _row(entry: _Entry) -> str:
    slash = "/" if entry.is_folder else ""
    icon = ICON_OF_FOLDER if entry.is_folder else ICON_OF_FILE
    link = quote(os.fsencode(entry.name)) + slash
    size = ""
    if not entry.is_folder:
        size = f'<span title="{entry.size:,} bytes">{human_size(entry.size)}</span>'
    return (
        f"<tr{' class=folder' if entry.is_folder else ''}>"
        f'<td class="name"><a href="./{link}">{icon}<bdi>{_show(entry.name)}{slash}</bdi></a></td>'
        f'<td class="size">{size}</td><td class="date">{_time(entry.mtime_s)}</td></tr>'
    )


def _other_pages(count: int, view: View) -> str:
    """Links to the pages before and behind this one."""
    last = -(-count // MAX_LISTED_ENTRIES)
    if last <= 1:
        return ""
    links = [f"Page {view.number} of {last}"]
    if view.number > 1:
        links.append(f'<a href="{view._replace(number=view.number - 1).query}">Previous</a>')
    if view.number < last:
        links.append(f'<a href="{view._replace(number=view.number + 1).query}">Next</a>')
    return f"<nav>{' · '.join(links)}</nav>"


def _summary(entries: Sequence[_Entry], *, is_whole: bool) -> str:
    folders = sum(entry.is_folder for entry in entries)
    files = len(entries) - folders
    parts = []
    if folders:
        parts.append(f"{folders:,} folder{'s' * (folders != 1)}")
    if files:
        total = sum(entry.size for entry in entries if not entry.is_folder)
        parts.append(f"{files:,} file{'s' * (files != 1)}, {human_size(total)}")
    text = " and ".join(parts) or "This folder is empty."
    return text if is_whole else f"{text}. There are more, which this page leaves out."


def _time(seconds: int) -> str:
    try:
        at = time.gmtime(seconds)
    except (OverflowError, ValueError, OSError):
        return ""
    text = f"{at.tm_year:04}-{at.tm_mon:02}-{at.tm_mday:02} {at.tm_hour:02}:{at.tm_min:02}"
    return f'<time datetime="{text.replace(" ", "T")}Z">{text}</time>'


def human_size(size: int) -> str:
    """A size for people: three digits and a unit, in powers of 1000."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def _show(name: str) -> str:
    """A file name as HTML text: names need not be UTF-8."""
    return html.escape(os.fsencode(name).decode("utf-8", "replace"))
