"""Bodies on their way: the part of a file that is still to be sent, and the file's descriptor.

`version` has the rule for a file that changes meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

from quicbaton.errors import StreamStateError
from quicbaton.files.folder import Folder
from quicbaton.files.open_files import OpenFile, status_of
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.files.version import FileVersion
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.connection import H3Connection
from quicbaton.limits import MAX_PASSED_DESCRIPTORS

_LOG: Final = logging.getLogger("quicbaton.files")

#: One DATA frame. A handoff carries the bytes that were read; the others are read again there.
CHUNK_BYTES: Final = 256 << 10
#: Bytes at the end of what was sent that are compared with the file, before it counts as one that
#: has only grown.
_TAIL_BYTES: Final = 64


class FileChangedError(Exception):
    """The file no longer has the content that was promised: reset the stream."""


class Promise(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The rest that a download owes its client, as it travels."""

    stream_id: int
    # Relative to the folder, its bytes as latin-1: names need not be UTF-8. Empty: it has none.
    path: str
    seen: FileVersion
    offset: int  # of the next byte to read
    end: int
    tail: bytes  # what was read last


class Download:
    """One response's body. `file`: the open file, None where too many were open."""

    def __init__(self, folder: Folder, promise: Promise, file: OpenFile | None) -> None:
        self._folder = folder
        self.promise = promise
        self.file = file

    @property
    def is_complete(self) -> bool:
        """Whether everything was read."""
        return self.promise.offset == self.promise.end

    @property
    def left_bytes(self) -> int:
        """Bytes of the response that were not read yet."""
        return self.promise.end - self.promise.offset

    @property
    def is_named(self) -> bool:
        """Whether it can go on by its path, without its descriptor."""
        return bool(self.promise.path)

    def read(self, most_bytes: int) -> bytes:
        """The next bytes, at most `most_bytes`. Raises FileChangedError."""
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
        """Let go of the file: the download is over, or another process has it."""
        if self.file is not None:
            self.file.release()
            self.file = None

    def _check_open(self, file: OpenFile) -> None:
        """Check the open file after a read: the kernel changes a file's times before its
        content."""
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
        """Whether the file was only renamed: no time but that of change differs, and the path leads
        elsewhere."""
        seen = self.promise.seen
        if (now.size, now.mtime_ns) != (seen.size, seen.mtime_ns):
            return False
        try:
            status = os.lstat(self._folder.path_of(self.promise.path))
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != now.key


def begin(folder: Folder, stream_id: int, path: str) -> Download:
    """A download of the whole file to which a path leads, links followed. Its descriptor is held
    even if too many are held already.

    RefusedRequestError: there is no such file, or it cannot be read.
    """
    found = os.path.realpath(path)
    file = folder.files.open(found)
    version = file.version()
    promise = Promise(stream_id, folder.name_of(found), version, 0, version.size, b"")
    return Download(folder, promise, file)


def begin_with(
    folder: Folder, stream_id: int, descriptor: int, offset: int, count: int | None
) -> Download:
    """A download of `count` bytes of an open file; None means to its end. The descriptor stays the
    caller's.

    The path is the one that the kernel gives for the descriptor. It is empty where it leads
    elsewhere by now; such a download cannot go on without the descriptor. RefusedRequestError: it
    is no regular file, cannot be read, or does not have so many bytes.
    """
    try:
        copied = os.dup(descriptor)
    except OSError as error:
        raise RefusedRequestError(status_of(error)) from error
    file = folder.files.adopt(copied)
    version = file.version()
    end = version.size if count is None else offset + count
    if not 0 <= offset <= end <= version.size:
        file.release()
        raise RefusedRequestError(416)
    name = ""
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if FileVersion.of(os.stat(path)).key == version.key:
            name = folder.name_of(path)
    return Download(folder, Promise(stream_id, name, version, offset, end, b""), file)


class Streams(Protocol):
    """The calls that downloads make to a connection: to a `Connection`, or to one that stands in
    for it."""

    def is_congested(self, stream_id: int) -> bool: ...
    def send_room_bytes(self, stream_id: int) -> int: ...
    def reset_stream(self, stream_id: int, error_code: int) -> None: ...
    def stream_is_finished(self, stream_id: int) -> bool: ...


class Downloads:
    """The downloads of one connection. They fill its streams and move with it.

    A protocol passes `StreamWritable` on to `fill`. It calls `export_descriptors`,
    `import_descriptors`, `rest_moved` and `connection_left` from its own methods of these names.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._downloads: dict[int, Download] = {}
        #: Open files that came along, kept until `go_on` says which downloads they are for.
        self._passed: list[int] = []

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._downloads

    def __len__(self) -> int:
        return len(self._downloads)

    def add(self, download: Download) -> None:
        """Add a download whose header section is sent. The caller then calls `fill`."""
        self._downloads[download.promise.stream_id] = download

    def fill(self, stream_id: int, quic: Streams, http: H3Connection) -> None:
        """Write until the stream's buffer is full or the file is at its end."""
        download = self._downloads.get(stream_id)
        if download is None:
            return
        while not download.is_complete:
            if quic.is_congested(stream_id):
                return
            try:
                room_bytes = quic.send_room_bytes(stream_id)
                data = download.read(min(CHUNK_BYTES, room_bytes))
                http.send_data(stream_id, data, download.is_complete)
            except FileChangedError as error:
                # A short body, or a mixed one, must not look like a whole one.
                _break_off(stream_id, quic, error)
                break
            except StreamStateError:
                break
        self.drop(stream_id)

    def drop(self, stream_id: int) -> bool:
        """Forget a download. Returns whether there was one."""
        download = self._downloads.pop(stream_id, None)
        if download is not None:
            download.release()
        return download is not None

    # --- moving ---------------------------------------------------------------------------------

    def promises(self) -> list[Promise]:
        """The state of all downloads: the argument of `go_on` in another process."""
        return [download.promise for download in self._downloads.values()]

    def export_descriptors(self) -> Sequence[int]:
        """Descriptors of the downloads' files, each once, and no more than can be passed."""
        held = (download.file for download in self._downloads.values())
        descriptors = {file.descriptor: None for file in held if file is not None}
        return list(descriptors)[:MAX_PASSED_DESCRIPTORS]

    def import_descriptors(self, descriptors: Sequence[int]) -> None:
        self._passed = list(descriptors)

    def go_on(self, promises: Iterable[Promise], quic: Streams) -> None:
        """Go on with another process's downloads. Those whose file is another one by now are reset.

        Writing begins with `StreamWritable`, which every unfinished download is owed.
        """
        passed = {file.key: file for file in self._take_passed()}
        for promise in promises:
            try:
                self._downloads[promise.stream_id] = go_on(self._folder, promise, passed)
            except FileChangedError as error:
                _break_off(promise.stream_id, quic, error)
        for file in passed.values():
            file.release()

    def rest_moved(self, quic: Streams) -> None:
        """Close the files that another process has now. Those of responses that have begun on
        streams which `quic`, a stand-in, still has stay open."""
        for stream_id in [one for one in self._downloads if quic.stream_is_finished(one)]:
            self.drop(stream_id)

    def connection_left(self) -> None:
        """Close all files: the connection is over, or another object has it."""
        for download in self._downloads.values():
            download.release()
        self._downloads.clear()
        for descriptor in self._passed:
            os.close(descriptor)
        self._passed = []

    def _take_passed(self) -> list[OpenFile]:
        files = []
        passed, self._passed = self._passed, []
        for descriptor in passed:
            with contextlib.suppress(RefusedRequestError):
                files.append(self._folder.files.adopt(descriptor))
        return files


def go_on(folder: Folder, promise: Promise, passed: dict[tuple[int, int], OpenFile]) -> Download:
    """Go on with a download of another process: with the descriptor that it passed, or with the
    file at the path, if that is the same. Raises FileChangedError."""
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


def _break_off(stream_id: int, quic: Streams, error: FileChangedError) -> None:
    _LOG.warning("stream %d is reset in the middle of a file: %s", stream_id, error)
    quic.reset_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)


def _check_found(seen: FileVersion, now: FileVersion) -> None:
    if not seen.is_same(now):
        raise FileChangedError("another file, or another content")
