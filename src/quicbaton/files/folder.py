"""A folder as HTTP paths name it: regular files inside it, and folders."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from quicbaton.files.content_type import SAMPLE_BYTES, content_type, is_text, with_charset
from quicbaton.files.encodings import ENCODINGS, Encoding, choose
from quicbaton.files.open_files import OpenFile, OpenFiles, status_of
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.files.version import FileVersion
from quicbaton.limits import MAX_PATH_BYTES, MAX_PATH_DEPTH

INDEX_NAME: Final = "index.html"
#: RFC 8615: a name that begins with a dot and is meant for everybody.
_WELL_KNOWN: Final = b".well-known"
_DOT_SEGMENTS: Final = (b".", b"..")
_SUFFIXES: Final = tuple(encoding.suffix for encoding in ENCODINGS)


class Located(NamedTuple):
    """The file or folder that a path leads to."""

    path: str
    is_folder: bool


class Representation(NamedTuple):
    """The form in which a located file is sent: itself, or a compressed file beside it."""

    file: OpenFile  # the caller releases it
    path: str  # relative to the folder, its bytes as latin-1
    version: FileVersion
    content_type: str
    coding: bytes  # empty: none
    varies: bool  # another Accept-Encoding might have got another one


class Folder:
    """Opens the files that paths name, and nothing outside of `root`, wherever links lead.

    `dotfiles`: whether names that begin with a dot are served and listed. A folder often has some
    that were never meant for the world: `.git`, `.env`, `.ssh`.
    """

    def __init__(
        self, root: Path, *, dotfiles: bool = False, files: OpenFiles | None = None
    ) -> None:
        self.root = root.resolve()
        self.dotfiles = dotfiles
        self.files = OpenFiles() if files is None else files
        self._root = str(self.root)
        self._inside = self._root.rstrip("/") + "/"

    def locate(self, target: str) -> Located:
        """The file or folder that a request target names, links followed.

        RefusedRequestError: 404 when there is none, 403 when it lies outside, 400 when the target
        is no path, 414 when it is too long for one.
        """
        path = target.partition("?")[0].partition("#")[0]
        decoded = unquote_to_bytes(path)
        if not path.startswith("/") or b"\0" in decoded:
            raise RefusedRequestError(400)
        if len(decoded) > MAX_PATH_BYTES or decoded.count(b"/") > MAX_PATH_DEPTH:
            raise RefusedRequestError(414)
        if not self.dotfiles and b"/." in decoded and _is_hidden(decoded):
            # Answered as if it did not exist: its existence is private, too.
            raise RefusedRequestError(404)
        try:
            # RFC 3986 §5.2.4: the client removes dot segments. Any that are left are followed here
            # like a link, and stay inside for the same reason.
            found = self._resolve(os.fsdecode(decoded).lstrip("/"))
            is_folder = stat.S_ISDIR(os.lstat(found).st_mode)
        except OSError as error:
            raise RefusedRequestError(status_of(error)) from error
        if decoded.endswith(b"/") and not is_folder:
            raise RefusedRequestError(404)
        return Located(found, is_folder)

    def represent(self, path: str, accepted: bytes | None) -> Representation:
        """A located file in the form that a client with this Accept-Encoding gets.

        RefusedRequestError: it is no regular file, or cannot be read; 406 when the client accepts
        none of the available forms.
        """
        file = self.files.open(path)
        try:
            version = file.version()
            media_type = content_type(path)
            if is_text(media_type):
                sample = os.pread(file.descriptor, SAMPLE_BYTES, 0)
                media_type = with_charset(media_type, sample)
            encoded = _encoded(path, version)
            chosen = choose(accepted, encoded)
            coding = b""
            if chosen is not None:
                path += chosen.suffix
                coding = chosen.coding
                plain, file = file, self.files.open(path)
                plain.release()
                version = file.version()
        except OSError as error:
            file.release()
            raise RefusedRequestError(status_of(error)) from error
        except RefusedRequestError:
            file.release()
            raise
        name = self.name_of(path)
        return Representation(file, name, version, media_type, coding, varies=bool(encoded))

    def hold(self, file: OpenFile) -> OpenFile | None:
        """Keep a file open. None, and the file is released, where too many are kept."""
        if self.files.are_too_many:
            file.release()
            return None
        return file

    def name_of(self, found: str) -> str:
        """A located file's path in the form that travels: relative to the root, its bytes as
        latin-1."""
        return os.fsencode(found.removeprefix(self._inside)).decode("latin-1")

    def find(self, path: str) -> str:
        """The path of the file to which such a name leads now, links followed. RefusedRequestError
        (403): it lies outside."""
        return self._resolve(os.fsdecode(path.encode("latin-1")))

    def path_of(self, path: str) -> str:
        """The path of the file with such a name, without looking at the disk."""
        return self._inside + os.fsdecode(path.encode("latin-1"))

    def shows(self, entry: os.DirEntry[str]) -> bool:
        """Whether a listing names the entry: only if it can be opened from there."""
        if entry.name.startswith(".") and not self.dotfiles:
            return False
        if not entry.is_symlink():
            return True
        try:
            self._resolve(entry.path.removeprefix(self._inside))
        except (OSError, RefusedRequestError):
            return False
        return True

    def title_of(self, found: str) -> str:
        """A located folder's path as in a URL, decoded: `/`, `/sub/`."""
        return "/" if found == self._root else f"/{found.removeprefix(self._inside)}/"

    def _resolve(self, name: str) -> str:
        """Follow all links below the root. RefusedRequestError (403): they lead outside, about
        which the answer says nothing."""
        found = os.path.realpath(self._inside + name)
        if found != self._root and not found.startswith(self._inside):
            raise RefusedRequestError(403)
        return found


def redirect_target(path: str) -> bytes:
    """A folder's own URL, for a path that lacks the last slash. It begins with one slash: two would
    make it a URL of another host."""
    return quote("/" + path.lstrip("/"), safe="/%").encode() + b"/"


def _is_hidden(path: bytes) -> bool:
    segments = [segment for segment in path.split(b"/") if segment]
    if segments and segments[0] == _WELL_KNOWN:
        del segments[0]
    return any(segment.startswith(b".") and segment not in _DOT_SEGMENTS for segment in segments)


def _encoded(path: str, version: FileVersion) -> list[Encoding]:
    """The encodings of a file that lie beside it, as `page.html.br` beside `page.html`. One that is
    older than the file has other content, and is left out."""
    if path.endswith(_SUFFIXES):
        return []
    encoded = []
    for encoding in ENCODINGS:
        try:
            status = os.lstat(path + encoding.suffix)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mtime_ns >= version.mtime_ns:
            encoded.append(encoding)
    return encoded
