"""One UDP socket, in batches: GRO on receipt, segmentation offload on sending, fallbacks for both.

A train of 44 packets costs one `sendmsg` with UDP_SEGMENT (0.6 µs per packet against 4.3 µs for
one `sendto` each), and a burst that the kernel coalesced arrives with one `recvmsg`.

`sendmmsg` for the trains of several connections was measured, and left out: it saves 0.4 µs each,
and its arguments take 2.3 µs to make by ctypes. `recvmmsg` likewise: 0.95 of an upload's CPU.

Linux constants that the socket module does not name are from `linux/udp.h` and `linux/in.h`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from quicbaton.limits import MIN_DATAGRAM_BYTES
from quicbaton.transport.state import Address
from quicbaton.transport.train import Train

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_IP_PKTINFO: Final = 8
_IP_RECVTOS: Final = 13
_IP_MTU_DISCOVER: Final = 10
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_IPV6_RECVTCLASS: Final = 66
_IPV6_TCLASS: Final = 67
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3  # set the don't-fragment bit, ignore the kernel's own estimate

#: The options for ECN bits (RFC 3168 §5): a socket for both protocols takes either, by the
#: destination.
_TOS: Final = (socket.IPPROTO_IP, socket.IP_TOS)
_TRAFFIC_CLASS: Final = (socket.IPPROTO_IPV6, _IPV6_TCLASS)
#: The errors of a kernel that sends no marks.
_NO_MARKS: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT)

#: Datagrams or coalesced bursts read in one turn of the event loop before others get theirs.
_READS_PER_TURN: Final = 32
#: A coalesced burst is at most this long.
_READ_BYTES: Final = 65_535
#: Type of service, two kinds of packet information and a segment size need 144 bytes.
_ANCILLARY_BYTES: Final = 256
#: The size of both socket buffers that the kernel is asked for; it grants what its limits allow.
_BUFFER_BYTES: Final = 4 << 20
#: Trains kept while the socket's buffer is full; beyond, they are lost as on any full link.
_MAX_OUTBOX: Final = 1024

#: Seconds until a full queue of the interface is tried again: a gigabit sends 125 KB meanwhile.
_QUEUE_PAUSE_S: Final = 0.001

_IS_LINUX: Final = sys.platform.startswith("linux")


class Datagram(NamedTuple):
    """A datagram as it came: bytes, the peer's address, ours (empty if the socket has only one),
    and the ECN bits of its IP header."""

    data: bytes
    remote: Address
    local: Address
    ecn: int


def open_udp(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound, non-blocking UDP socket; "::" takes IPv4, too. Port 0 is any free port."""
    if reuse_port and not port:
        # The kernel would give a port of another group of this user's, too.
        return open_first_udp(host, 0)
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def open_first_udp(host: str, port: int) -> socket.socket:
    """As `open_udp`, for others to join later with `reuse_port`. No other socket may have the port:
    a program of our user could share it unnoticed, and the kernel would divide the clients.

    Raises OSError (EADDRINUSE) while another process has it.
    """
    if not _IS_LINUX:
        # Elsewhere all sockets of a port must have been bound to be shared.
        with open_udp(host, port) as free:
            port = free.getsockname()[1]
        return open_udp(host, port, reuse_port=True)
    # In one step for all who try at once: bound alone, and shared from then on.
    sock = open_udp(host, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


def attach_steering(sock: socket.socket, program: bytes, instructions: int) -> None:
    """Attach a classic BPF program to the socket's SO_REUSEPORT group (Linux 4.5)."""
    import ctypes  # noqa: PLC0415 - only here, and only on Linux

    buffer = ctypes.create_string_buffer(program)
    sock.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_REUSEPORT_CBPF,
        struct.pack("HL", instructions, ctypes.addressof(buffer)),
    )


#: After this many reads in a row that bring one datagram, a second one is not looked for.
_ALONE: Final = 7


class UdpSocket:
    """Reads and writes a bound socket on the running event loop.

    `on_batch` gets everything that one turn read; `on_room` is called when a full socket has room
    again. Reading starts with `start` and can be stopped and started again, as a takeover needs.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_batch: Callable[[list[Datagram]], None],
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.sock = sock
        self._on_batch = on_batch
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[Train] = deque()
        self._reading = False
        self._watching = False  # for the socket to be readable
        self._gathering: asyncio.TimerHandle | None = None  # instead of watching
        self._may_have_more = False  # the last turn has not read everything
        self._is_v6 = sock.family == socket.AF_INET6
        name = sock.getsockname()
        self.address: Address = name
        self._port = name[1]
        self._wildcard = name[0] in ("0.0.0.0", "::")
        self._gso = False
        self._alone = 0  # reads in a row that brought one datagram
        self._marks = _IS_LINUX
        self._writing = False
        self._pause: asyncio.TimerHandle | None = None
        #: Whether the latest refusal was by the interface's queue, or by the size.
        self._queue_full = False
        self._refused = False
        self.datagrams_sent = self.bytes_sent = 0
        self.datagrams_received = self.bytes_received = 0
        self._configure()

    # --- commands -------------------------------------------------------------------------------

    def start(self) -> None:
        if not self._reading:
            self._reading = True
            self._watch()

    def stop(self) -> None:
        self._reading = False
        self._unwatch()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def read_on(self) -> bool:
        """Read what has come, a turn's share at most, now. False when there is more, or was after
        the last turn."""
        if self._may_have_more:
            self._may_have_more = self._has_more()
        elif self._reading:
            self._alone = 0
            self._on_readable()
        return not self._may_have_more

    def gather(self, seconds: float) -> None:
        """Leave what arrives from now on in the kernel's buffer for so long, and read it together.
        For `on_batch`: each call is for once."""
        if self._reading and self._gathering is None and not self._may_have_more:
            self._unwatch()
            self._gathering = self._loop.call_later(seconds, self._on_gathered)

    def close(self) -> None:
        self.stop()
        self._stop_waiting()
        self._outbox.clear()
        self.sock.close()

    def read_now(self) -> list[Datagram]:
        """The datagrams in the socket's buffer, up to a turn's share."""
        batch: list[Datagram] = []
        # Where one datagram comes at a time, as requests of a waiting client do, looking for a
        # second one costs 7 µs of the 200 that a request takes. It is looked for every eighth time.
        alone = self._alone
        reads = 1 if alone > _ALONE and alone & 7 else _READS_PER_TURN
        for _ in range(reads):
            # recvmsg_into and slices of its buffer are no faster (1.8 against 2.0 µs for one
            # datagram, 12.5 against 13 to 16 µs for a burst of 40).
            try:
                data, ancillary, _, remote = self.sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                self._may_have_more = False
                break
            except OSError as error:
                # ICMP errors of earlier sends surface here; they are hints at best (§14.2.1).
                if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                    continue
                raise
            self.bytes_received += len(data)
            local, ecn, segment_bytes = self._read_ancillary(ancillary) if ancillary else ((), 0, 0)
            if 0 < segment_bytes < len(data):
                batch += [
                    Datagram(data[at : at + segment_bytes], remote, local, ecn)
                    for at in range(0, len(data), segment_bytes)
                ]
            else:
                batch.append(Datagram(data, remote, local, ecn))
        else:
            self._may_have_more = reads > 1
        self._alone = alone + 1 if len(batch) == 1 else 0
        self.datagrams_received += len(batch)
        return batch

    def send(self, train: Train) -> bool:
        """Send a train, or keep it until the socket has room. False when the interface does not
        take datagrams of that size (EMSGSIZE): they are lost, and larger ones than 1200 bytes
        should not be tried again on this path."""
        if self._outbox:
            if len(self._outbox) < _MAX_OUTBOX:
                self._outbox.append(train)
            return True
        self._refused = False
        rest = self._try_send(train)
        if rest is not None:
            self._outbox.append(rest)
            self._wait()
        return not self._refused

    def send_datagram(self, data: bytes, remote: Address, local: Address = ()) -> None:
        self.send(Train(data, len(data), remote, local))

    def can_send_from(self, local: Address) -> bool:
        """Whether a client that talks to this address would take datagrams from this socket for
        answers: our port, and an address of this host."""
        if len(local) < 2 or local[1] != self._port or (":" in str(local[0])) != self._is_v6:
            return False
        if not self._wildcard:
            return local[0] == self.address[0]
        host = str(local[0]).removeprefix("::ffff:")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, 0, *local[2:]) if family == socket.AF_INET6 else (host, 0))
            except OSError:
                return False
        return True

    @property
    def through(self) -> None:
        """None: no other process sends for this socket."""

    @property
    def is_full(self) -> bool:
        """Whether the kernel's buffer is full: build no more trains until it has drained."""
        return bool(self._outbox)

    # --- helpers, in reading order --------------------------------------------------------------

    def _configure(self) -> None:
        """Ask for the options that the kernel has; a missing one only costs speed."""
        sock = self.sock
        options: list[tuple[int, int, int]] = [
            (socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES),
            (socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES),
        ]
        if _IS_LINUX:
            options += [
                (socket.IPPROTO_IP, _IP_RECVTOS, 1),
                (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE),
            ]
            if self._is_v6:
                options += [
                    (socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1),
                    (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE),
                ]
            if self._wildcard:
                options.append((socket.IPPROTO_IP, _IP_PKTINFO, 1))
                if self._is_v6:
                    options.append((socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1))
        for level, option, value in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)
        if _IS_LINUX:
            with contextlib.suppress(OSError):
                sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            with contextlib.suppress(OSError):
                sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
                self._gso = True

    def _has_more(self) -> bool:
        """Look, and read nothing."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return False
        return self._reading

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.add_reader(self.sock.fileno(), self._on_readable)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self.sock.fileno())

    def _on_readable(self) -> None:
        batch = self.read_now()
        if batch:
            self._on_batch(batch)

    def _on_gathered(self) -> None:
        self._gathering = None
        try:
            self._on_readable()
        finally:
            if self._reading and self._gathering is None:
                self._watch()

    def _read_ancillary(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[Address, int, int]:
        local: Address = ()
        ecn = 0
        segment_bytes = 0
        for level, kind, value in ancillary:
            if level == _SOL_UDP:
                if kind == _UDP_GRO:
                    segment_bytes = int.from_bytes(value[:2], sys.byteorder)
            elif level == socket.IPPROTO_IP:
                if kind == socket.IP_TOS:
                    ecn = value[0] & 3
                elif kind == _IP_PKTINFO:
                    host = socket.inet_ntoa(value[8:12])
                    if self._is_v6:
                        local = ("::ffff:" + host, self._port, 0, 0)
                    else:
                        local = (host, self._port)
            elif level == socket.IPPROTO_IPV6:
                if kind == _IPV6_TCLASS:
                    ecn = int.from_bytes(value, sys.byteorder) & 3
                elif kind == _IPV6_PKTINFO:
                    local = (socket.inet_ntop(socket.AF_INET6, value[:16]), self._port, 0, 0)
        return local, ecn, segment_bytes

    def _on_writable(self) -> None:
        while self._outbox:
            rest = self._try_send(self._outbox[0])
            if rest is not None:
                self._outbox[0] = rest
                self._wait()
                return
            self._outbox.popleft()
        self._stop_waiting()
        self._on_room()

    def _wait(self) -> None:
        """Try again when there is room. If the interface's queue was full and not the socket's
        buffer, the socket is writable all the time: then after a pause."""
        if not self._queue_full:
            if self._pause is not None:
                self._pause.cancel()
                self._pause = None
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self.sock.fileno(), self._on_writable)
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.sock.fileno())
        self._pause = self._loop.call_later(_QUEUE_PAUSE_S, self._on_writable)

    def _stop_waiting(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _try_send(self, train: Train) -> Train | None:
        """Send it. Returns the part for which there is no room yet, else None. Sets `_refused` when
        the interface does not take datagrams of that size."""
        data = train.data
        segment_bytes = train.segment_bytes
        if len(data) <= segment_bytes or not self._gso:
            return self._send_singly(train)
        segmented = (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", segment_bytes))
        try:
            self.sock.sendmsg([data], [*self._ancillary(train), segmented], 0, train.remote)
        except OSError as error:
            if self._is_full_by(error):
                return train
            # The interface cannot segment (EIO, udp(7)), nor the kernel on this route, or the error
            # has another cause, the size for instance: datagrams that go singly tell which.
            before = self.datagrams_sent
            rest = self._send_singly(train)
            if rest is None and not self._refused and self.datagrams_sent > before:
                self._gso = False
            return rest
        self.datagrams_sent += -(-len(data) // segment_bytes)
        self.bytes_sent += len(data)
        return None

    def _send_singly(self, train: Train) -> Train | None:
        data = train.data
        step = train.segment_bytes
        ancillary = self._ancillary(train)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            try:
                self.sock.sendmsg([piece], ancillary, 0, train.remote)
                self.datagrams_sent += 1
                self.bytes_sent += len(piece)
            except OSError as error:
                if self._is_full_by(error):
                    return train._replace(data=data[at:])
                if error.errno == errno.EMSGSIZE and len(piece) > MIN_DATAGRAM_BYTES:
                    self._refused = True
                    continue  # the last one may be smaller
                if train.ecn and error.errno in _NO_MARKS:
                    # The peer will see no marks, and the path is not tried again.
                    self._marks = False
                    return self._send_singly(train._replace(data=data[at:], ecn=0))
                # No route, or a firewall: lost, as the network could have lost it.
                return None
        return None

    def _is_full_by(self, error: OSError) -> bool:
        """Whether waiting helps: for the socket's buffer, or the interface's queue."""
        self._queue_full = error.errno in (errno.ENOBUFS, errno.ENOMEM)
        return self._queue_full or isinstance(error, (BlockingIOError, InterruptedError))

    def _ancillary(self, train: Train) -> list[tuple[int, int, bytes]]:
        ancillary = []
        if train.local and self._wildcard:
            ancillary.append(source_ancillary(train.local, is_v6=self._is_v6))
        if train.ecn and self._marks:
            is_v4 = not self._is_v6 or str(train.remote[0]).startswith("::ffff:")
            level, kind = _TOS if is_v4 else _TRAFFIC_CLASS
            ancillary.append((level, kind, train.ecn.to_bytes(4, sys.byteorder)))
        return ancillary


def source_ancillary(local: Address, *, is_v6: bool) -> tuple[int, int, bytes]:
    """The ancillary data with which the kernel sends from `local`, on a socket of the family
    `is_v6`."""
    host = str(local[0])
    if not is_v6 or host.startswith("::ffff:"):
        packed = socket.inet_aton(host.removeprefix("::ffff:"))
        return (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, packed, bytes(4)))
    packed = socket.inet_pton(socket.AF_INET6, host)
    return (socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16sI", packed, 0))
