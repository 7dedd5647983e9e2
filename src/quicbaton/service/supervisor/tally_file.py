"""The figures of a service's processes, in memory that outlives each of them.

One piece of memory for the whole service, without a name in the file system. A supervisor makes it
and gives each process a place in it; the process writes its figures there a few times a second. So
they are read without asking, from a process that hangs, too, and what a process has counted is
there when it has ended, whatever ended it. All workers hold the memory open: the next supervisor
gets it back from any of them, or from systemd.

    place 0    magic (8)
    place n    use (8): 0 free, 1 ended processes, else the number of one process
               | record | record
    record     sequence (8) | use (8) | bytes (4) | CRC-32 (4) | MessagePack

A record is written in place of the older one of the two, by one `pwrite`. A process that is killed
in between leaves one that does not fit its CRC, and the one before it counts. "Use" stands in the
record, too: a process that has been given up for dead, and writes all the same, is not taken for
the next owner of its place.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

import msgspec

from quicbaton.limits import MAX_TALLY_BYTES
from quicbaton.service.peers.tally import Tally

_MAGIC: Final = b"tally 1\0"
_USE: Final = struct.Struct("=Q")
_HEAD: Final = struct.Struct("=QQII")
_RECORD_BYTES: Final = _HEAD.size + MAX_TALLY_BYTES
_PLACE_BYTES: Final = _USE.size + 2 * _RECORD_BYTES

_FREE: Final = 0
#: The use of a place that has the sum of a worker number's ended processes.
ENDED: Final = 1


class Record(msgspec.Struct, array_like=True):
    """What stands in a place."""

    pid: int  # of the process whose tally it is; 0 for ended ones
    #: Of ended ones: the use of the place that was added last. If the supervisor ended before that
    #: place was free, it must not be added again.
    added: int
    tally: Tally


_DECODER: Final = msgspec.msgpack.Decoder(Record)
_ENCODER: Final = msgspec.msgpack.Encoder()


class TallyPlace:
    """A place in the memory `descriptor`: `number` is which, `use` whose."""

    def __init__(self, descriptor: int, number: int, use: int) -> None:
        self.number = number
        self.use = use
        self.descriptor = descriptor
        self._at = number * _PLACE_BYTES
        #: The sequence of the record that is written next, and which of the two it is.
        self._next: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<TallyPlace {self.number} use={self.use:x}>"

    def write(self, record: Record) -> bool:
        """Write a record, if the place is still the caller's and the record fits."""
        data = _ENCODER.encode(record)
        if len(data) > MAX_TALLY_BYTES or not self._is_ours():
            return False
        if self._next is None:
            # A former writer may have left one of them in part: the whole one stays.
            latest = self._latest()
            self._next = (1, 0) if latest is None else (latest[0] + 1, 1 - latest[1])
        sequence, which = self._next
        head = _HEAD.pack(sequence, self.use, len(data), _checksum(sequence, self.use, data))
        os.pwrite(self.descriptor, head + data, self._offset(which))
        self._next = sequence + 1, 1 - which
        return True

    def read(self) -> Record | None:
        """The latest whole record; None before the first one."""
        latest = self._latest()
        return None if latest is None else latest[2]

    def take(self) -> None:
        """Mark it as in use."""
        os.pwrite(self.descriptor, _USE.pack(self.use), self._at)

    def free(self) -> None:
        """Leave it to another process."""
        os.pwrite(self.descriptor, _USE.pack(_FREE), self._at)

    # --- helpers --------------------------------------------------------------------------------

    def _is_ours(self) -> bool:
        return _use_at(self.descriptor, self._at) == self.use

    def _offset(self, which: int) -> int:
        return self._at + _USE.size + which * _RECORD_BYTES

    def _latest(self) -> tuple[int, int, Record] | None:
        """Sequence, which of the two, and content of the latest whole record."""
        found = (self._read(which) for which in (0, 1))
        return max((one for one in found if one is not None), default=None, key=lambda one: one[0])

    def _read(self, which: int) -> tuple[int, int, Record] | None:
        written = os.pread(self.descriptor, _RECORD_BYTES, self._offset(which))
        if len(written) < _HEAD.size:
            return None
        sequence, use, size, checksum = _HEAD.unpack_from(written)
        data = written[_HEAD.size : _HEAD.size + size]
        if not sequence or use != self.use or _checksum(sequence, use, data) != checksum:
            return None
        try:
            return sequence, which, _DECODER.decode(data)
        except msgspec.DecodeError:
            return None  # another release's


class TallyFile:
    """The memory with all places, for the supervisor. It owns `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def make(cls) -> TallyFile:
        """Empty memory."""
        descriptor = os.memfd_create("quicbaton-tallies")
        os.pwrite(descriptor, _MAGIC, 0)
        return cls(descriptor)

    @classmethod
    def go_on_with(cls, descriptor: int) -> TallyFile:
        """A former supervisor's memory; empty memory where another release laid that out
        differently. The descriptor is this object's, or closed."""
        if os.pread(descriptor, len(_MAGIC), 0) == _MAGIC:
            return cls(descriptor)
        os.close(descriptor)
        return cls.make()

    def places(self) -> list[TallyPlace]:
        """Those in use."""
        size = os.fstat(self.descriptor).st_size
        found = []
        for number in range(1, -(-size // _PLACE_BYTES)):
            use = _use_at(self.descriptor, number * _PLACE_BYTES)
            if use != _FREE:
                found.append(TallyPlace(self.descriptor, number, use))
        return found

    def take_place(self, use: int | None = None) -> TallyPlace:
        """A free place, which is in use from now on; by a new process unless `use` says
        otherwise."""
        taken = {place.number for place in self.places()}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        if use is None:
            use = int.from_bytes(os.urandom(7), "little") + 2
        place = TallyPlace(self.descriptor, number, use)
        place.take()
        return place

    def close(self) -> None:
        os.close(self.descriptor)


def _checksum(sequence: int, use: int, data: bytes) -> int:
    """Of everything: an old record with a new sequence is not whole either."""
    return zlib.crc32(b"%d %d " % (sequence, use) + data)


def _use_at(descriptor: int, at: int) -> int:
    data = os.pread(descriptor, _USE.size, at)
    return int(_USE.unpack(data.ljust(_USE.size, b"\0"))[0])
