"""The client of the transport benchmark: libcurl over HTTP/3, commanded by lines on stdin.

`open` makes a connection with one small request, outside of the measurement. `download`, `upload`
and `small` then use that connection, and say so if curl opened another one. `connect` opens and
closes connections with a small request each. `open_many` opens a connection that `many` then uses
for small requests, `STREAMS` of them at a time. `download_for` takes the body for that many
seconds, and compares what has come. Hashes are taken after the clock has stopped.
"""

import hashlib
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pycurl

from bench.servers.application import SMALL_BYTES, make_body

#: Requests at a time of `many`.
STREAMS = 32

_TIMEOUT_S = 300
#: That of Chromium's QUIC sockets.
_RECEIVE_BUFFER_BYTES = 1 << 20
#: A connection on which nothing comes for so long has stalled.
_STALL_S = 10


class Command(msgspec.Struct):
    """What to do: `open`, `download`, `upload`, `small`, `many` or `connect` (that many times),
    `download_for` (that many seconds), `close`, `open_many`, `close_many`."""

    operation: str
    port: int
    count: int


class Answer(msgspec.Struct):
    """The result; `sha256` is that of the last body received."""

    error: str = ""
    seconds: float = 0.0
    received_bytes: int = 0
    sha256: str = ""


class _RequestError(Exception):
    """The answer was not what was asked for."""


class _Session:
    """One curl handle, so one connection at a time."""

    def __init__(self, ca_file: Path, body_bytes: int) -> None:
        self._ca_file = ca_file
        self._body = memoryview(make_body(body_bytes))
        self._curl = pycurl.Curl()
        self._streams = _Streams()

    def perform(self, command: Command) -> Answer:
        port, count = command.port, command.count
        operations: dict[str, Callable[[], Answer]] = {
            "open": lambda: self._open(command),
            "download": lambda: self._get("/body", port, 1),
            "small": lambda: self._get("/small", port, count),
            "download_for": lambda: self._download_for(port, count),
            "upload": lambda: self._upload(port),
            "connect": lambda: self._connect(command),
            "close": self._close,
            "open_many": lambda: self._open_many(port),
            "many": lambda: self._streams.get(self._ca_file, port, count, connections=0),
            "close_many": self._close_many,
        }
        if command.operation not in operations:
            raise _RequestError(f"unknown operation {command.operation!r}")
        return operations[command.operation]()

    def _close(self) -> Answer:
        self._curl.close()
        return Answer()

    def _open_many(self, port: int) -> Answer:
        self._streams = _Streams()
        return self._streams.get(self._ca_file, port, 1, connections=1)

    def _close_many(self) -> Answer:
        self._streams.close()
        return Answer()

    def _open(self, command: Command) -> Answer:
        self._curl = _handle(self._ca_file)
        return self._get("/small", command.port, 1, connections=1)

    def _connect(self, command: Command) -> Answer:
        """Each from a handle of its own, which remembers no session: handshakes are full ones."""
        answer, seconds = Answer(), 0.0
        for _ in range(command.count):
            answer = self._open(command)
            seconds += answer.seconds
            self._curl.close()
        answer.seconds = seconds
        return answer

    def _get(self, path: str, port: int, count: int, connections: int = 0) -> Answer:
        self._curl.setopt(pycurl.HTTPGET, 1)
        pieces: list[bytes] = []
        seconds = 0.0
        for _ in range(count):
            pieces.clear()
            seconds += self._timed(path, port, pieces.append, connections)
            received_bytes = sum(map(len, pieces))
            if path == "/small" and received_bytes != SMALL_BYTES:
                raise _RequestError(f"{received_bytes} bytes instead of {SMALL_BYTES}")
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return Answer("", seconds, received_bytes, digest.hexdigest())

    def _download_for(self, port: int, seconds: int) -> Answer:
        pieces: list[bytes] = []
        self._curl.setopt(pycurl.HTTPGET, 1)
        self._curl.setopt(pycurl.TIMEOUT, seconds)
        try:
            elapsed_s = self._timed("/body", port, pieces.append, 0)
        except pycurl.error as error:
            if error.args[0] != pycurl.E_OPERATION_TIMEDOUT:
                raise
            elapsed_s = float(seconds)
        received = b"".join(pieces)
        if not self._body.tobytes().startswith(received):
            raise _RequestError(f"of {len(received)} bytes some are not the body's")
        return Answer("", elapsed_s, len(received), "")

    def _upload(self, port: int) -> Answer:
        position = 0

        def read(size: int) -> bytes:
            nonlocal position
            piece = bytes(self._body[position : position + size])
            position += len(piece)
            return piece

        self._curl.setopt(pycurl.POST, 1)
        self._curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(self._body))
        self._curl.setopt(pycurl.READFUNCTION, read)
        self._curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
        self._curl.setopt(pycurl.UPLOAD_BUFFERSIZE, 512 * 1024)
        pieces: list[bytes] = []
        seconds = self._timed("/upload", port, pieces.append, 0)
        answer = b"".join(pieces)
        if answer != b"%d" % len(self._body):
            raise _RequestError(f"the server says {answer!r} to {len(self._body)} bytes")
        return Answer("", seconds, len(answer), "")

    def _timed(
        self, path: str, port: int, write: Callable[[bytes], None], connections: int
    ) -> float:
        _aim(self._curl, port, path)
        self._curl.setopt(pycurl.WRITEFUNCTION, write)
        before = time.perf_counter()
        self._curl.perform()
        seconds = time.perf_counter() - before
        if self._curl.getinfo(pycurl.RESPONSE_CODE) != 200:
            raise _RequestError(f"status {self._curl.getinfo(pycurl.RESPONSE_CODE)} for {path}")
        if self._curl.getinfo(pycurl.NUM_CONNECTS) != connections:
            raise _RequestError(f"{path} did not use the connection that was open")
        return seconds


class _Streams:
    """One connection with `STREAMS` small requests at a time."""

    def __init__(self) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
        self._handles: list[pycurl.Curl] = []
        self._bodies: dict[pycurl.Curl, bytearray] = {}

    def get(self, ca_file: Path, port: int, count: int, *, connections: int) -> Answer:
        """Make `count` requests; `connections` is how many they may open."""
        while len(self._handles) < min(count, STREAMS):
            handle = _handle(ca_file)
            handle.setopt(pycurl.PIPEWAIT, 1)
            _aim(handle, port, "/small")
            self._handles.append(handle)
        begun, opened, last = 0, 0, b""
        before = time.perf_counter()
        for handle in self._handles[: min(count, STREAMS)]:
            self._begin(handle)
            begun += 1
        done = 0
        while done < count:
            self._multi.perform()
            left, finished, failed = self._multi.info_read()
            if failed:
                raise _RequestError(str(failed[0][2]))
            for handle in finished:
                self._multi.remove_handle(handle)
                last = self._take(handle)
                opened += handle.getinfo(pycurl.NUM_CONNECTS)
                done += 1
                if begun < count:
                    self._begin(handle)
                    begun += 1
            if not finished and not left:
                # libcurl's own timers, in ms; -1: it has none.
                wait_ms = self._multi.timeout()
                self._multi.select(min(1.0, wait_ms / 1000) if wait_ms >= 0 else 1.0)
        seconds = time.perf_counter() - before
        if opened != connections:
            raise _RequestError(f"{opened} connections were opened, not {connections}")
        return Answer("", seconds, len(last), hashlib.sha256(last).hexdigest())

    def close(self) -> None:
        for handle in self._handles:
            handle.close()
        self._multi.close()

    def _begin(self, handle: pycurl.Curl) -> None:
        body = self._bodies[handle] = bytearray()
        handle.setopt(pycurl.WRITEFUNCTION, body.extend)
        self._multi.add_handle(handle)

    def _take(self, handle: pycurl.Curl) -> bytes:
        body = bytes(self._bodies[handle])
        status = handle.getinfo(pycurl.RESPONSE_CODE)
        if status != 200 or len(body) != SMALL_BYTES:
            raise _RequestError(f"status {status} with {len(body)} bytes")
        return body


def _handle(ca_file: Path) -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.OPENSOCKETFUNCTION, _open_socket)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.CAINFO, str(ca_file))
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT, _TIMEOUT_S)
    curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
    curl.setopt(pycurl.LOW_SPEED_TIME, _STALL_S)
    return curl


def _open_socket(_purpose: int, address: Any) -> socket.socket:
    """With a buffer as browsers have it: the kernel's default overflows in 5 ms at 200 Mbit/s."""
    sock = socket.socket(address[0], address[1], address[2])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    return sock


def _aim(curl: pycurl.Curl, port: int, path: str) -> None:
    curl.setopt(pycurl.URL, f"https://localhost:{port}{path}")
    curl.setopt(pycurl.RESOLVE, [f"localhost:{port}:127.0.0.1"])


def main() -> None:
    """Answer every line of stdin with a line on stdout."""
    session = _Session(Path(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        try:
            answer = session.perform(msgspec.json.decode(line, type=Command))
        except (pycurl.error, _RequestError) as failure:
            answer = Answer(error=str(failure))
        print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    main()
