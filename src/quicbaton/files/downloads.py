"""Bodies on their way: what of a file is still to be sent, and the file's descriptor.

`version` has the rule for a file that changes meanwhile.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from quicbaton.files.folder import Folder
from quicbaton.files.open_files import OpenFile
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.files.version import FileVersion

#: How much of what was sent last is compared with the file before it counts as one that has grown.
_TAIL_BYTES: Final = 64


class FileChangedError(Exception):
    """The file does not have any more what was promised: reset the stream."""


class Promise(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a download still owes its client. It travels as it is."""

    stream_id: int
    path: str  # relative to the folder, its bytes as latin-1: names need not be UTF-8
    seen: FileVersion
    offset: int  # of the next byte to read
    end: int
    tail: bytes  # what was read last


class Download:
    """One response's body. `file`: the open file, None where there were too many."""

    def __init__(self, folder: Folder, promise: Promise, file: OpenFile | None) -> None:
        self._folder = folder
        self.promise = promise
        self.file = file

    @property
    def is_complete(self) -> bool:
        """Everything was read."""
        return self.promise.offset == self.promise.end

    def read(self, most_bytes: int) -> bytes:
        """The next bytes. Raises FileChangedError."""
        promise = self.promise
        size = min(most_bytes, promise.end - promise.offset)
        try:
            if self.file is not None:
                data = os.pread(self.file.descriptor, size, promise.offset)
                self._check_open(self.file)
            else:
                with self._folder.files.opened(self._folder.path_of(promise.path)) as file:
                    data = os.pread(file.descriptor, size, promise.offset)
                    _check_found(promise.seen, file.version())
        except (OSError, RefusedRequestError) as error:
            raise FileChangedError(f"{promise.path!r} cannot be read any more") from error
        if len(data) < size:
            raise FileChangedError(f"{promise.path!r} was cut off")
        promise.offset += size
        promise.tail = data[-_TAIL_BYTES:]
        return data

    def release(self) -> None:
        """It is over, or another process's."""
        if self.file is not None:
            self.file.release()
            self.file = None

    def _check_open(self, file: OpenFile) -> None:
        """After a read: the kernel changes a file's times before its content."""
        promise = self.promise
        now = file.version()
        if now == promise.seen:
            return
        if not promise.seen.still_has(now) and not self._is_renamed(now):
            raise FileChangedError(f"{promise.path!r} was overwritten")
        before = promise.offset - len(promise.tail)
        if os.pread(file.descriptor, len(promise.tail), before) != promise.tail:
            raise FileChangedError(f"{promise.path!r} was overwritten by something longer")
        promise.seen = now

    def _is_renamed(self, now: FileVersion) -> bool:
        """Only the time of change is another, and the path leads elsewhere: it was renamed."""
        seen = self.promise.seen
        if (now.size, now.mtime_ns) != (seen.size, seen.mtime_ns):
            return False
        try:
            status = os.lstat(self._folder.path_of(self.promise.path))
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != now.key


def go_on(folder: Folder, promise: Promise, passed: dict[tuple[int, int], OpenFile]) -> Download:
    """Go on with a download of another process: with the descriptor that it passed, or with what
    the path leads to now, if that is the same. Raises FileChangedError."""
    file = passed.get(promise.seen.key)
    if file is not None:
        return Download(folder, promise, file.share())
    try:
        found = folder.files.open(folder.find(promise.path))
    except RefusedRequestError as error:
        raise FileChangedError(f"{promise.path!r} is not there any more") from error
    now = found.version()
    if not promise.seen.is_same(now):
        found.release()
        raise FileChangedError(f"{promise.path!r} is another file by now")
    promise.seen = now
    return Download(folder, promise, folder.hold(found))


def _check_found(seen: FileVersion, now: FileVersion) -> None:
    if not seen.is_same(now):
        raise FileChangedError("another file, or another content")
