"""A private Unix stream between two processes of one user: frames of bytes, and descriptors.

The control socket is as powerful as the keys. Its directory is 0700, the socket 0600, and a peer
whose uid is neither ours nor root's is turned away (SO_PEERCRED), whatever the file system says.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from quicbaton.errors import ConfigurationError, PeerError
from quicbaton.limits import (
    CHANNEL_CROWDED_BYTES,
    CHANNEL_FULL_BYTES,
    MAX_OUTBOX_BYTES,
    MAX_PASSED_DESCRIPTORS,
    MAX_WAITING_PARCELS,
)
from quicbaton.reasons import Reason
from quicbaton.service.peers.accepting import Accepting
from quicbaton.service.peers.process_watch import ProcessWatch
from quicbaton.service.timing import CONNECT_PAUSE_S, CONNECT_S

#: Bytes read at once.
_READ_BYTES: Final = 1 << 20
#: Room for the descriptors that come with them.
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MAX_PASSED_DESCRIPTORS * array.array("i").itemsize)
#: As a plain number: the flags of an Enum cost a microsecond with every read.
_CUT: Final = int(socket.MSG_CTRUNC)
#: A descriptor that a child process inherits stays open with it.
_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_BUFFER_BYTES: Final = 1 << 20


class PeerCredentials(NamedTuple):
    """The identity of the other end, as the kernel knows it, or as its certificate says."""

    pid: int  # 0 on another host, where it would say nothing here
    uid: int
    node: str = ""  # the node's name, over TLS only


class _Parcel(NamedTuple):
    """Bytes that wait to be written, and descriptors of ours that ride on their first one."""

    data: bytes
    descriptors: list[int]


class Channel:
    """Writes bytes and hands on the bytes that it reads, whatever they mean.

    `on_data(data)` is called with bytes that arrived, `on_lost()` once, after everything that the
    peer wrote was handed on. A write that fails is the channel's end, too, but the peer's last
    bytes are read first. `peer` is the identity that the caller has found; without it the kernel is
    asked.
    """

    def __init__(self, sock: socket.socket, peer: PeerCredentials | None = None) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[bytes | _Parcel] = deque()
        self._outbox_bytes = 0
        #: Descriptors by the writes of the peer with which they came, in order.
        self._parcels: deque[list[int]] = deque()
        self.closed = False
        self._closing = False  # once the waiting bytes are written
        self._broken = False  # the peer takes no more bytes
        self._when_drained: list[Callable[[], None]] = []
        self.peer = peer if peer is not None else peer_credentials(sock)
        #: The control socket that was connected to, where a listener accepted the channel.
        self.accepted_at: Path | None = None
        #: Bytes that may wait to be written before the peer counts as stuck and is cut off.
        self.max_outbox_bytes = MAX_OUTBOX_BYTES
        #: Why the channel was lost, if that is known and worth telling.
        self.reason = ""
        self.on_data: Callable[[bytes], None] = lambda _data: None
        self.on_lost: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        who = self.peer.node or f"pid {self.peer.pid}"
        return f"<{type(self).__name__} to {who}{' closed' if self.closed else ''}>"

    @property
    def is_remote(self) -> bool:
        """Whether the peer is a process of another host, or came in like one."""
        return bool(self.peer.node)

    @property
    def is_full(self) -> bool:
        """Whether so many bytes wait to be written that a bulk sender should pause."""
        return self._outbox_bytes > CHANNEL_FULL_BYTES

    @property
    def is_crowded(self) -> bool:
        """Whether so many bytes wait to be written that messages which may be lost should be."""
        return self._outbox_bytes > CHANNEL_CROWDED_BYTES

    def when_drained(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` soon after the channel is no longer full, or lost; once."""
        if self.is_full and not self.closed:
            self._when_drained.append(go_on)
        else:
            self._loop.call_soon(go_on)

    def start(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def write(self, data: bytes) -> None:
        """Send `data`, at once where the kernel takes it."""
        self._put(data)

    def _put(self, data: bytes) -> None:
        if self.closed or self._closing or self._broken:
            return
        if self._outbox_bytes > self.max_outbox_bytes:
            self.reason = "it does not read its messages"
            self.abort()
            return
        if not self._outbox:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # The reader finds the end, after the peer's last bytes.
                self._broken = True
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        self._outbox.append(data)
        self._outbox_bytes += len(data)

    def write_descriptors(self, data: bytes, descriptors: list[int]) -> None:
        """Send `data` with descriptors, which go with its first byte.

        Raises PeerError, with nothing passed, when the peer does not read or is gone.
        """
        if self.closed or self._broken:
            raise PeerError("the peer hung up: no descriptors were passed", code=Reason.LINK_LOST)
        if self._outbox:
            raise PeerError(
                "the peer does not read: no descriptors were passed", code=Reason.CROWDED
            )
        try:
            sent = socket.send_fds(self._sock, [data], descriptors)
        except (BlockingIOError, InterruptedError):
            raise PeerError(
                "the peer does not read: no descriptors were passed", code=Reason.CROWDED
            ) from None
        except OSError as error:
            raise PeerError(
                f"no descriptors were passed: {error.strerror or error}", code=Reason.LINK_LOST
            ) from error
        if sent < len(data):
            self._outbox.append(data[sent:])
            self._outbox_bytes += len(data) - sent
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def queue_descriptors(self, data: bytes, descriptors: Sequence[int]) -> None:
        """Send `data` with descriptors, in its place behind the bytes that wait to be written.
        Nothing is sent where descriptors cannot be passed. The caller keeps its descriptors and may
        close them."""
        if self.closed or self._closing or self._broken:
            return
        if not self._outbox:
            with contextlib.suppress(PeerError):
                self.write_descriptors(data, list(descriptors))
                return
        copies: list[int] = []
        try:
            for descriptor in descriptors:
                copies.append(os.dup(descriptor))
        except OSError:
            # Too many are open here.
            _close_all(copies)
            return
        if not self._outbox:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        self._outbox.append(_Parcel(data, copies))
        self._outbox_bytes += len(data)

    def take_descriptors(self) -> list[int]:
        """Descriptors that arrived so far; the caller owns them."""
        taken = list(chain.from_iterable(self._parcels))
        self._parcels.clear()
        return taken

    def take_parcel(self) -> list[int]:
        """The descriptors that came with the earliest write of the peer's; the caller owns them.
        Empty if there are none, or if this process had no room for all of them."""
        return self._parcels.popleft() if self._parcels else []

    def watch(self, on_exit: Callable[[], None]) -> ProcessWatch:
        """Have `on_exit` called when the process at the other end has exited. For a process of our
        own host only: a lost link to another one is no proof of death."""
        return ProcessWatch(self._sock, self.peer.pid, on_exit)

    def read_to_the_end(self) -> None:
        """The peer is dead: read its last bytes, then lose the channel, even if another process has
        inherited the other end."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Write the waiting bytes, then close; `on_lost` is not called."""
        self.on_lost = lambda: None
        if self._outbox and not self.closed:
            self._closing = True
            self._loop.remove_reader(self._sock.fileno())
        else:
            self.abort()

    def abort(self) -> None:
        self._lose()

    # --- helpers --------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _READ_BYTES,
                _ANCILLARY_BYTES,
                _CLOSE_ON_EXEC,
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary, flags = b"", [], 0
        if ancillary or flags & _CUT:
            self._keep_descriptors(ancillary, is_cut=bool(flags & _CUT))
        if data and len(self._parcels) <= MAX_WAITING_PARCELS:
            self._take(data)
        else:
            self._lose()

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]], *, is_cut: bool) -> None:
        """Keep the descriptors that came with one read. The kernel ends a read behind the first
        write that brings descriptors, and gives as many of these as this process has room for."""
        parcel = array.array("i")
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                parcel.frombytes(value[: len(value) - len(value) % parcel.itemsize])
        if is_cut:
            _close_all(parcel)
            # An empty one, so that the next is not taken for it.
            self._parcels.append([])
        elif parcel:
            self._parcels.append(parcel.tolist())

    def _take(self, data: bytes) -> None:
        self.on_data(data)

    def _on_writable(self) -> None:
        while self._outbox:
            waiting = self._outbox[0]
            data = waiting.data if isinstance(waiting, _Parcel) else waiting
            try:
                sent = self._send(waiting)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # As in `write`.
                self._broken = True
                self._drop_outbox()
                break
            self._outbox_bytes -= sent
            if sent < len(data):
                self._outbox[0] = data[sent:]
                self._tell_drained()
                return
            self._outbox.popleft()
        self._outbox_bytes = 0
        self._loop.remove_writer(self._sock.fileno())
        self._tell_drained()
        if self._closing:
            self._lose()

    def _send(self, waiting: bytes | _Parcel) -> int:
        """Send. Returns how many bytes the kernel took; a parcel that it does not pass counts as
        sent."""
        if not isinstance(waiting, _Parcel):
            return self._sock.send(waiting)
        try:
            sent = socket.send_fds(self._sock, [waiting.data], waiting.descriptors)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            # Too many descriptors of this user are on their way.
            sent = len(waiting.data)
        _close_all(waiting.descriptors)
        return sent

    def _drop_outbox(self) -> None:
        for waiting in self._outbox:
            if isinstance(waiting, _Parcel):
                _close_all(waiting.descriptors)
        self._outbox.clear()

    def _tell_drained(self) -> None:
        if not self.is_full or self.closed:
            waiting, self._when_drained = self._when_drained, []
            for go_on in waiting:
                self._loop.call_soon(go_on)

    def _lose(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._tell_drained()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._drop_outbox()
        _close_all(self.take_descriptors())
        self.on_lost()


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """The peer's pid and uid; PeerError when it is another user's (root may always)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in (os.getuid(), 0):
        raise PeerError(f"uid {uid} may not use this socket", code=Reason.WRONG_USER)
    return PeerCredentials(pid, uid)


async def connect_channel(path: Path) -> Channel:
    """Connect to the process that listens at `path`.

    The code of a PeerError is `unreachable` when no process listens there, and `deadline` when one
    does and takes no more connections, as a stopped process soon does.
    """
    sock = None
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        await _connect(sock, path)
        return Channel(sock)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        nobody = isinstance(error, ConnectionRefusedError | FileNotFoundError)
        raise PeerError(
            f"{'nobody answers at' if nobody else 'cannot connect to'} {path}: "
            f"{error.strerror or error}",
            code=Reason.UNREACHABLE if nobody else Reason.OS,
        ) from error


async def _connect(sock: socket.socket, path: Path) -> None:
    until = monotonic() + CONNECT_S
    while True:
        try:
            sock.connect(str(path))
            return
        except BlockingIOError:
            # Its queue is full. That is an error of its own for a Unix socket (connect(2)), and
            # such a socket looks writable: asyncio's `sock_connect` takes it for connected.
            if monotonic() >= until:
                raise PeerError(
                    f"the process at {path} does not accept connections", code=Reason.DEADLINE
                ) from None
        await asyncio.sleep(CONNECT_PAUSE_S)


class Listener:
    """Accepts channels at a path that only this user can reach."""

    def __init__(self, path: Path, on_channel: Callable[[Channel], None]) -> None:
        self.path = path
        self._on_channel = on_channel
        sock, self._inode = _bind_private(path)
        self._accepting = Accepting(sock, self._take)

    def close(self, *, leave_path: bool = False) -> None:
        """Listen no more. The path is removed, unless another process has put its own there.

        `leave_path`: a successor is about to put its own there. Between the look at the path and
        its removal it could do so, and its path would be removed.
        """
        if not leave_path:
            # While the socket is open: with it goes the inode, whose number may be used again.
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_ino == self._inode:
                    self.path.unlink()
        self._accepting.close()

    def _take(self, sock: socket.socket) -> None:
        try:
            channel = Channel(sock)
        except PeerError:
            sock.close()
            return
        channel.accepted_at = self.path
        self._on_channel(channel)
        channel.start()


def _make_private_folder(folder: Path) -> None:
    """Make the folder, or check that only this user can reach its content."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {folder} for a control socket: {error.strerror or error}"
        ) from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            f"{folder} is open to other users, and a control socket is as powerful as the keys: "
            "use a folder of your own with mode 0700",
            code=Reason.NOT_PRIVATE,
        )


def _bind_private(path: Path) -> tuple[socket.socket, int]:
    """A socket that listens at `path`, and its inode there."""
    _make_private_folder(path.parent)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    # Bound under another name and moved into place: a successor replaces the path without a
    # moment in which no process listens.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    previous = os.umask(0o177)
    try:
        # Left by a process with our pid that was killed before it moved it.
        temporary.unlink(missing_ok=True)
        sock.bind(str(temporary))
        sock.listen(64)
        # Now: as soon as it is in place another process may put its own there, or remove it.
        inode = temporary.stat().st_ino
        if path.exists() and not path.is_socket():
            raise ConfigurationError(f"{path} exists and is not a socket: choose another path")
        temporary.rename(path)
    except OSError as error:
        sock.close()
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"cannot listen at {path}: {error.strerror or error}") from error
    except ConfigurationError:
        sock.close()
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.umask(previous)
    return sock, inode
