"""A folder as what an HTTP path can name: regular files inside it, and listings of its folders."""

from __future__ import annotations

import errno
import html
import mimetypes
import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from msgspec import Struct

INDEX_NAME: Final = "index.html"
#: Entries that a listing names; a folder may have millions.
MAX_LISTED: Final = 10_000


class FolderError(Exception):
    """The path cannot be served; `status` is the HTTP status that says so."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class FileIdentity(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What tells one content of a path from the next, in every process of a host."""

    size: int
    mtime_ns: int
    inode: int


class File(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A file as it was when somebody asked for it."""

    path: str  # relative to the folder, its bytes as latin-1: names need not be UTF-8
    identity: FileIdentity

    @property
    def content_type(self) -> str:
        return mimetypes.guess_type(self.path)[0] or "application/octet-stream"


class Folder:
    """Opens what paths name, and nothing outside of `root`, whatever links say."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def locate(self, target: str) -> Path:
        """The file or folder that a request target names, links followed.

        FolderError: 404 when there is none, 403 when it lies outside, 400 when it is no path.
        """
        path = target.partition("?")[0].partition("#")[0]
        decoded = unquote_to_bytes(path)
        if not path.startswith("/") or b"\0" in decoded:
            raise FolderError(400)
        # RFC 3986 §5.2.4 dot segments are the client's to remove; what is left of them is followed
        # here like a link, and stays inside for the same reason.
        wanted = self.root / os.fsdecode(decoded).lstrip("/")
        try:
            found = wanted.resolve()
            if not found.is_relative_to(self.root):
                # Before anything else: the answer says nothing about what is out there.
                raise FolderError(403)
            found.lstat()
        except OSError as error:
            raise FolderError(_status_of(error)) from error
        except RuntimeError as error:  # a loop of links
            raise FolderError(404) from error
        return found

    def describe(self, found: Path) -> File:
        """A located file. FolderError: it is no regular file, or cannot be read."""
        descriptor, identity = _open(found)
        os.close(descriptor)
        path = os.fsencode(found.relative_to(self.root)).decode("latin-1")
        return File(path, identity)

    def has(self, file: File) -> bool:
        """True while the path still names the same content."""
        try:
            found = self.locate("/" + quote(file.path, encoding="latin-1"))
            return self.describe(found) == file
        except FolderError:
            return False

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Read from a file; FolderError 409 when it was replaced or cut off since.

        The file is opened for every read, which costs 15 µs beside the milliseconds that sending
        256 KiB takes. In return no connection holds a descriptor: there is none to close when it
        moves, and 10,000 downloads need one.
        """
        descriptor, identity = _open(self.root / os.fsdecode(file.path.encode("latin-1")))
        try:
            if identity.inode != file.identity.inode or identity.size < file.identity.size:
                raise FolderError(409)
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise FolderError(_status_of(error)) from error
        finally:
            os.close(descriptor)
        if len(data) < size:
            raise FolderError(409)
        return data

    def list(self, found: Path) -> bytes:
        """A page with links to what a located folder contains; hidden names are left out."""
        try:
            entries = sorted(
                (entry for entry in os.scandir(found) if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
        except OSError as error:
            raise FolderError(_status_of(error)) from error
        title = _show("/" + str(found.relative_to(self.root)).removeprefix("."))
        names = [entry.name + "/" * _is_folder(entry) for entry in entries[:MAX_LISTED]]
        items = "\n".join(
            f'<li><a href="./{quote(os.fsencode(name))}">{_show(name)}</a></li>' for name in names
        )
        left_out = len(entries) - len(names)
        more = f"<p>and {left_out} more</p>" if left_out else ""
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            f"<h1>{title}</h1><ul>\n{items}\n</ul>{more}</html>\n"
        )
        return page.encode()


def _open(path: Path) -> tuple[int, FileIdentity]:
    try:
        # Not blocking: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise FolderError(_status_of(error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FolderError(403)
    return descriptor, FileIdentity(status.st_size, status.st_mtime_ns, status.st_ino)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _show(name: str) -> str:
    """A file name as HTML text: names need not be UTF-8."""
    return html.escape(os.fsencode(name).decode("utf-8", "replace"))


def _status_of(error: OSError) -> int:
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        return 403
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return 503
    return 404
