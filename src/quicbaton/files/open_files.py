"""The descriptors behind downloads: one for each file, however many download it, and a limit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from collections.abc import Iterator

from quicbaton.files.refusal import RefusedRequestError
from quicbaton.files.version import FileVersion
from quicbaton.limits import MAX_OPEN_FILES


class OpenFile:
    """A descriptor and the number of its users. The last user's release closes it."""

    __slots__ = ("_home", "_users", "descriptor", "key")

    def __init__(self, home: OpenFiles, descriptor: int, key: tuple[int, int]) -> None:
        self._home = home
        self._users = 1
        self.descriptor = descriptor
        #: The file itself: its device and inode.
        self.key = key

    def __repr__(self) -> str:
        return f"<OpenFile {self.descriptor} inode {self.key[1]} users {self._users}>"

    def share(self) -> OpenFile:
        """Add a user, who is to call `release`."""
        self._users += 1
        return self

    def release(self) -> None:
        """Remove a user; the last one closes the descriptor."""
        self._users -= 1
        if not self._users:
            self._home.close(self)

    def version(self) -> FileVersion:
        """The file's present state."""
        return FileVersion.of(os.fstat(self.descriptor))


class OpenFiles:
    """The open files of one process. The caller of `open` and `adopt` is a user and has to
    `release`.

    `limit`: how many descriptors downloads may hold at once; by default half of those that the
    kernel lets this process have. Beyond it a download opens its file for each read.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = _default_limit() if limit is None else limit
        self._files: dict[tuple[int, int], OpenFile] = {}

    def __len__(self) -> int:
        return len(self._files)

    @property
    def are_too_many(self) -> bool:
        """Whether no further download should hold a descriptor."""
        return len(self._files) > self._limit

    def open(self, path: str) -> OpenFile:
        """Open a regular file. RefusedRequestError: there is no such file, or it may not be
        read."""
        try:
            # Not blocking: opening a FIFO would wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise RefusedRequestError(status_of(error)) from error
        return self._enter(descriptor)

    def adopt(self, descriptor: int) -> OpenFile:
        """Take a descriptor that another process has passed. One that is of no use is closed.

        RefusedRequestError: it is not a regular file, opened for reading.
        """
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            os.close(descriptor)
            raise RefusedRequestError(403)
        return self._enter(descriptor)

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[OpenFile]:
        """The file, open inside a `with` block."""
        file = self.open(path)
        try:
            yield file
        finally:
            file.release()

    def close(self, file: OpenFile) -> None:
        """Called when the file has no user any more."""
        del self._files[file.key]
        os.close(file.descriptor)

    def _enter(self, descriptor: int) -> OpenFile:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise RefusedRequestError(403)
        key = (status.st_dev, status.st_ino)
        known = self._files.get(key)
        if known is not None:
            os.close(descriptor)
            return known.share()
        file = self._files[key] = OpenFile(self, descriptor, key)
        return file


def status_of(error: OSError) -> int:
    """The HTTP status for a file that cannot be opened."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        return 403
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return 503
    return 404


def _default_limit() -> int:
    """Half of the descriptors. The others are for sockets, links and the rest of the process."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_OPEN_FILES
    return min(MAX_OPEN_FILES, allowed // 2)
