"""One state of a file, and whether a later one still has what was promised.

The rule for a file that changes while it is sent
-------------------------------------------------
A response promises a length and, by its ETag, one content. What becomes of the file then:

    it is replaced, renamed or deleted    the open file is still the old one: it goes on
    it grows                              it goes on, to the promised length
    its owner, mode or links change       it goes on
    it is overwritten, cut off, touched   the stream is reset

The kernel gives a file a new modification time before the first byte of a write is visible. So a
look at the times after each read vouches for all bytes that were read. A touched file looks like
one that was overwritten with as many bytes. A file that has grown may have been overwritten by
something longer: `downloads` therefore compares the last bytes that were sent before it takes the
rest as appended. A new time of change with an old modification time means a new link, owner or
name, which shows elsewhere, too. If it does not, the modification time was set back after a write.

Three things cannot be detected: a second write within one tick of the kernel's clock (4 ms at
worst), writes through a mapping that was written to before, and a writer that changes bytes ahead
of the reader and also makes the file longer.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import Final

from msgspec import Struct

_NS_PER_S: Final = 1_000_000_000
#: Bytes of a hash: two states of a file would have one tag after 2**48 states.
_ETAG_BYTES: Final = 12


class FileVersion(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A file in one state, according to its inode."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    #: Links, mode, owner and group change the time of change, but no content.
    links: int
    mode: int
    owner: int
    group: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_nlink,
            status.st_mode,
            status.st_uid,
            status.st_gid,
        )

    @property
    def key(self) -> tuple[int, int]:
        """The file's identity (device and inode), unique as long as it is open."""
        return self.device, self.inode

    @property
    def modified_s(self) -> int:
        return self.mtime_ns // _NS_PER_S

    @property
    def etag(self) -> bytes:
        """A strong entity tag (RFC 9110 §8.8.3), quoted.

        It covers the time of change, which no program can set: reproducible builds and archives
        give all states of a file one modification time. It is a hash, so that clients do not learn
        inode numbers.
        """
        text = f"{self.inode} {self.size} {self.mtime_ns} {self.ctime_ns}"
        digest = blake2b(text.encode("ascii"), digest_size=_ETAG_BYTES).digest()
        return b'"' + urlsafe_b64encode(digest) + b'"'

    def still_has(self, now: FileVersion) -> bool:
        """Whether the same inode in the state `now` still has what this state promised, as far as
        its times and size show."""
        if now.size != self.size:
            return now.size > self.size
        if now.mtime_ns != self.mtime_ns:
            return False
        return now.ctime_ns == self.ctime_ns or now._attributes != self._attributes

    def is_same(self, found: FileVersion) -> bool:
        """Whether the file that is found at the path, later or on another host, has the same
        content.

        The same inode must be unchanged. Another inode may be a copy that kept the modification
        time (`cp -p`, `rsync -t`). It is accepted if that time is finer than a second: whole
        seconds are what programs set for all of their files.
        """
        if (found.size, found.mtime_ns) != (self.size, self.mtime_ns):
            return False
        if found.key == self.key:
            return found.ctime_ns == self.ctime_ns
        return self.mtime_ns % _NS_PER_S != 0

    @property
    def _attributes(self) -> tuple[int, int, int, int]:
        return self.links, self.mode, self.owner, self.group
