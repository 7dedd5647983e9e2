"""A folder as what an HTTP path can name: regular files inside it, and folders."""

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

INDEX_NAME: Final = "index.html"
#: RFC 8615: what everybody may ask for, though its name begins with a dot.
_WELL_KNOWN: Final = b".well-known"
_DOT_SEGMENTS: Final = (b".", b"..")


class Representation(NamedTuple):
    """What a located file is sent as: itself, or a file beside it that has it compressed."""

    file: OpenFile  # the caller releases it
    path: str  # relative to the folder, its bytes as latin-1
    version: FileVersion
    content_type: str
    coding: bytes  # empty: none
    varies: bool  # another Accept-Encoding might have got another one


class Folder:
    """Opens what paths name, and nothing outside of `root`, whatever links say.

    `dotfiles`: whether names that begin with a dot are served, and listed, too. A folder of this
    kind often has what was never meant for the world: `.git`, `.env`, `.ssh`.
    """

    def __init__(
        self, root: Path, *, dotfiles: bool = False, files: OpenFiles | None = None
    ) -> None:
        self.root = root.resolve()
        self.dotfiles = dotfiles
        self.files = OpenFiles() if files is None else files

    def locate(self, target: str) -> Path:
        """The file or folder that a request target names, links followed.

        RefusedRequestError: 404 when there is none, 403 when it lies outside, 400 when it is no
        path.
        """
        path = target.partition("?")[0].partition("#")[0]
        decoded = unquote_to_bytes(path)
        if not path.startswith("/") or b"\0" in decoded:
            raise RefusedRequestError(400)
        if not self.dotfiles and _is_hidden(decoded):
            # As if it were not there: that it is, is nobody's business either.
            raise RefusedRequestError(404)
        # RFC 3986 §5.2.4 dot segments are the client's to remove; what is left of them is followed
        # here like a link, and stays inside for the same reason.
        wanted = self.root / os.fsdecode(decoded).lstrip("/")
        try:
            found = wanted.resolve()
            if not found.is_relative_to(self.root):
                # Before anything else: the answer says nothing about what is out there.
                raise RefusedRequestError(403)
            status = found.lstat()
        except OSError as error:
            raise RefusedRequestError(status_of(error)) from error
        except RuntimeError as error:  # a loop of links
            raise RefusedRequestError(404) from error
        if decoded.endswith(b"/") and not stat.S_ISDIR(status.st_mode):
            raise RefusedRequestError(404)
        return found

    def represent(self, found: Path, accepted: bytes | None) -> Representation:
        """A located file as a client with this Accept-Encoding gets it.

        RefusedRequestError: it is no regular file, or cannot be read; 406 when the client accepts
        nothing that is there.
        """
        file = self.files.open(found)
        try:
            version = file.version()
            media_type = content_type(found.name)
            if is_text(media_type):
                sample = os.pread(file.descriptor, SAMPLE_BYTES, 0)
                media_type = with_charset(media_type, sample)
            encoded = _encoded(found, version)
            chosen = choose(accepted, encoded)
            path, coding = found, b""
            if chosen is not None:
                path = found.with_name(found.name + chosen.suffix)
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
        return Representation(
            file, self._name_of(path), version, media_type, coding, varies=bool(encoded)
        )

    def hold(self, file: OpenFile) -> OpenFile | None:
        """The file, to keep; released, and None, where too many are kept."""
        if self.files.are_too_many:
            file.release()
            return None
        return file

    def find(self, path: str) -> Path:
        """What a name of ours leads to now. RefusedRequestError (403): outside, or in a circle."""
        try:
            found = self.path_of(path).resolve()
        except (OSError, RuntimeError) as error:
            raise RefusedRequestError(403) from error
        if not found.is_relative_to(self.root):
            raise RefusedRequestError(403)
        return found

    def path_of(self, path: str) -> Path:
        """Where the file of such a name lies, without looking."""
        return self.root / os.fsdecode(path.encode("latin-1"))

    def shows(self, entry: os.DirEntry[str]) -> bool:
        """Whether a listing should name it: it can be opened from there."""
        if entry.name.startswith(".") and not self.dotfiles:
            return False
        if not entry.is_symlink():
            return True
        try:
            return Path(entry.path).resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):
            return False

    def title_of(self, found: Path) -> str:
        """A located folder's path as in a URL, decoded: `/`, `/sub/`."""
        name = str(found.relative_to(self.root))
        return "/" if name == "." else f"/{name}/"

    def _name_of(self, found: Path) -> str:
        return os.fsencode(found.relative_to(self.root)).decode("latin-1")


def redirect_target(path: str) -> bytes:
    """A folder's own URL for a path without the last slash. One slash in front: a second would make
    it another host's."""
    return quote("/" + path.lstrip("/"), safe="/%").encode() + b"/"


def _is_hidden(path: bytes) -> bool:
    segments = [segment for segment in path.split(b"/") if segment]
    if segments and segments[0] == _WELL_KNOWN:
        del segments[0]
    return any(segment.startswith(b".") and segment not in _DOT_SEGMENTS for segment in segments)


def _encoded(found: Path, version: FileVersion) -> list[Encoding]:
    """The encodings of a file that lie beside it, as `page.html.br` beside `page.html`. One that is
    older than the file is of another content."""
    encoded = []
    name = os.fspath(found)
    if name.endswith(tuple(encoding.suffix for encoding in ENCODINGS)):
        return []
    for encoding in ENCODINGS:
        try:
            status = os.lstat(name + encoding.suffix)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mtime_ns >= version.mtime_ns:
            encoded.append(encoding)
    return encoded
