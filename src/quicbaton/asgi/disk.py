"""Files that programs name as the bodies of responses (ASGI extensions Path Send, Zero Copy Send).

The program decides which files it sends: all files of the host are one folder here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from quicbaton.files import Folder
from quicbaton.files.downloads import Download, begin, begin_with
from quicbaton.files.refusal import RefusedRequestError

#: Why a program's file cannot be sent, by the HTTP status that would say so.
_REFUSALS: Final = {
    403: "it may not be read, or is no regular file",
    404: "there is none",
    416: "the file does not have it",
}


def whole_disk() -> Folder:
    """All files of the host. There is one such folder for each process, so that a file which
    several responses send has one descriptor."""
    return Folder(Path("/"), dotfiles=True)


def open_file(disk: Folder, stream_id: int, path: str) -> Download:
    """A download of a whole file. Raises RuntimeError, the program's mistake, when it cannot be
    sent."""
    return _may_refuse(repr(path), lambda: begin(disk, stream_id, path))


def open_part(
    disk: Folder, stream_id: int, descriptor: int, offset: int, count: int | None
) -> Download:
    """A download of `count` bytes of an open file, whose descriptor stays the program's. Raises
    RuntimeError as `open_file` does."""
    return _may_refuse(
        f"a part of descriptor {descriptor}",
        lambda: begin_with(disk, stream_id, descriptor, offset, count),
    )


def _may_refuse(what: str, open_it: Callable[[], Download]) -> Download:
    try:
        return open_it()
    except RefusedRequestError as error:
        why = _REFUSALS.get(error.status, "no more files can be opened")
        raise RuntimeError(f"{what} cannot be sent: {why}") from error
