"""The client of the transport benchmark: libcurl over HTTP/3, told by lines what to do.

`open` makes a connection with one small request, outside of what is measured. `download`,
`upload` and `small` then use that connection, and say so if curl opened another one. `connect`
opens and closes connections with a small request each. Hashes are taken after the clock has
stopped.
"""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pycurl

from bench.servers.application import SMALL_BYTES, make_body

_TIMEOUT_S = 300


class Command(msgspec.Struct):
    """What to do: `open`, `download`, `upload`, `small` or `connect` (that many times), `close`."""

    operation: str
    port: int
    count: int


class Answer(msgspec.Struct):
    """What came of it; `sha256` is that of the last body received."""

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

    def perform(self, command: Command) -> Answer:
        if command.operation == "open":
            return self._open(command)
        if command.operation == "download":
            return self._get("/body", command.port, 1)
        if command.operation == "small":
            return self._get("/small", command.port, command.count)
        if command.operation == "upload":
            return self._upload(command.port)
        if command.operation == "connect":
            return self._connect(command)
        if command.operation == "close":
            self._curl.close()
            return Answer()
        raise _RequestError(f"unknown operation {command.operation!r}")

    def _open(self, command: Command) -> Answer:
        self._curl = pycurl.Curl()
        self._curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
        self._curl.setopt(pycurl.CAINFO, str(self._ca_file))
        self._curl.setopt(pycurl.PROXY, "")
        self._curl.setopt(pycurl.NOSIGNAL, 1)
        self._curl.setopt(pycurl.TIMEOUT, _TIMEOUT_S)
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
        self._curl.setopt(pycurl.URL, f"https://localhost:{port}{path}")
        self._curl.setopt(pycurl.RESOLVE, [f"localhost:{port}:127.0.0.1"])
        self._curl.setopt(pycurl.WRITEFUNCTION, write)
        before = time.perf_counter()
        self._curl.perform()
        seconds = time.perf_counter() - before
        if self._curl.getinfo(pycurl.RESPONSE_CODE) != 200:
            raise _RequestError(f"status {self._curl.getinfo(pycurl.RESPONSE_CODE)} for {path}")
        if self._curl.getinfo(pycurl.NUM_CONNECTS) != connections:
            raise _RequestError(f"{path} did not use the connection that was open")
        return seconds


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
