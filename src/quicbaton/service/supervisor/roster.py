"""A worker's connections, in memory that outlives it: the clients to tell when it has died.

The supervisor makes the memory, the worker writes it, and it is read only after the worker's death.
A connection is entered when it begins or arrives. It is struck out when it ends, and before a
commit gives it away; with a shared store, where the destination commits, when it is frozen. So the
connections in a dead worker's roster died with it: their clients may be reset without asking any
other process (RFC 9000 §10.3, §21.11).

    header    magic (8) | padding to 128
    record    in use (1) | flags (1) | bytes of IDs (1) | padding (1)
              | remote address (16), port (2), scope (4) | local address (16)
              | IDs, each after its length (1)

The byte that says "in use" is cleared first and set last. A worker that is killed in between leaves
no entry, and that client learns of it by its own next packet. There are no keys here and no reset
tokens: the process that sends the resets derives these from the cluster key.

A packet writes nothing here. A client's new address is noted when it next changes IDs, which an
intended migration does (§9.5); after a mere NAT rebinding the entry is out of date until then.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from quicbaton.errors import PeerError
from quicbaton.limits import MAX_ROSTER_ENTRIES
from quicbaton.reasons import Reason
from quicbaton.transport.state import Address

_MAGIC: Final = b"roster 1"
_RECORD_BYTES: Final = 128
_RECORD: Final = struct.Struct("=BBBx16sHI16s")
_IDS_AT: Final = _RECORD.size
_ID_ROOM: Final = _RECORD_BYTES - _IDS_AT

_REMOTE_V6: Final = 1
_LOCAL_V6: Final = 2
_HAS_LOCAL: Final = 4


class Entry(NamedTuple):
    """One connection: its client's address, ours, and the IDs that we gave it."""

    remote: Address
    local: Address
    cids: tuple[bytes, ...]


def make_roster(entries: int = MAX_ROSTER_ENTRIES) -> int:
    """A descriptor of memory for that many entries. Unused entries take no memory."""
    descriptor = os.memfd_create("quicbaton-roster")
    os.ftruncate(descriptor, (entries + 1) * _RECORD_BYTES)
    return descriptor


class Roster:
    """A worker's own roster, for writing."""

    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        self._capacity = size // _RECORD_BYTES - 1
        self._used = 0  # records that ever were in use
        self._free: list[int] = []
        self._records: dict[bytes, int] = {}
        #: Connections for which there was no room.
        self.unlisted = 0
        self._memory[: len(_MAGIC)] = _MAGIC

    def __len__(self) -> int:
        return len(self._records)

    def enter(self, name: bytes, remote: Address, local: Address, cids: Iterable[bytes]) -> None:
        """Note a connection, or a change of one."""
        at = self._records.get(name)
        if at is None:
            at = self._take()
            if at == 0:
                self.unlisted += 1
                return
            self._records[name] = at
        self._memory[at] = 0
        flags = 0
        if ":" in str(remote[0]):
            flags |= _REMOTE_V6
        if local:
            flags |= _HAS_LOCAL | (_LOCAL_V6 if ":" in str(local[0]) else 0)
        ids = b""
        for cid in cids:
            if len(ids) + 1 + len(cid) <= _ID_ROOM:
                ids += bytes((len(cid),)) + cid
        _RECORD.pack_into(
            self._memory,
            at,
            0,
            flags,
            len(ids),
            _packed(str(remote[0])),
            remote[1],
            remote[3] if len(remote) > 3 else 0,
            _packed(str(local[0])) if local else bytes(16),
        )
        self._memory[at + _IDS_AT : at + _IDS_AT + len(ids)] = ids
        self._memory[at] = 1

    def strike(self, name: bytes) -> None:
        """Remove a connection that is over or no longer ours."""
        at = self._records.pop(name, None)
        if at is not None:
            self._memory[at] = 0
            self._free.append(at)

    def _take(self) -> int:
        """Offset of a free record; 0 when there is none."""
        if self._free:
            return self._free.pop()
        if self._used >= self._capacity:
            return 0
        self._used += 1
        return self._used * _RECORD_BYTES


def read_roster(descriptor: int, port: int) -> list[Entry]:
    """The entries of a dead worker's roster. `port` is the service's.

    Raises PeerError for memory that another release laid out differently.
    """
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as memory:
        magic = memory[: len(_MAGIC)]
        if magic == bytes(len(_MAGIC)):
            return []  # It died before it wrote anything.
        if magic != _MAGIC:
            raise PeerError("not a roster of this release", code=Reason.ROSTER_FORMAT)
        in_use = memory[::_RECORD_BYTES]
        found = []
        number = in_use.find(1, 1)
        while number > 0:
            found.append(_read(memory, number * _RECORD_BYTES, port))
            number = in_use.find(1, number + 1)
        return found


# --- helpers ----------------------------------------------------------------------------------


def _read(memory: mmap.mmap, at: int, port: int) -> Entry:
    _, flags, size, remote, remote_port, scope, local = _RECORD.unpack_from(memory, at)
    ids = memory[at + _IDS_AT : at + _IDS_AT + size]
    cids = []
    while ids:
        end = 1 + ids[0]
        cids.append(ids[1:end])
        ids = ids[end:]
    ours: Address = ()
    if flags & _HAS_LOCAL:
        ours = _address(local, port, 0, bool(flags & _LOCAL_V6))
    return Entry(_address(remote, remote_port, scope, bool(flags & _REMOTE_V6)), ours, tuple(cids))


def _packed(host: str) -> bytes:
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return socket.inet_aton(host).ljust(16, b"\0")


def _address(packed: bytes, port: int, scope: int, is_v6: bool) -> Address:
    if is_v6:
        return (socket.inet_ntop(socket.AF_INET6, packed), port, 0, scope)
    return (socket.inet_ntoa(packed[:4]), port)
