"""The application that every measured server runs, and the command line around it.

It knows nothing of a library beyond what the three share: an `H3Connection` with `send_headers`
and `send_data`, and events that carry the same fields under the same class names.

* `GET /body` answers with the body, written in chunks of 256 KiB while the library takes them.
* `GET /small` answers with the body's first KiB, `GET /first/N` with its first N bytes.
* `POST /upload` compares every byte with the body and answers with the number of bytes.

The body is random, the same for every server, and made before anything is measured.
"""

import argparse
import asyncio
import hashlib
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

CHUNK_BYTES = 256 * 1024
SMALL_BYTES = 1024
#: What every server allows a client to send ahead (the same for all: qh3's defaults, the largest).
MAX_DATA = 15_728_640
MAX_STREAM_DATA = 6_291_456

_BODY_SEED = 20_260_101


def make_body(size: int) -> bytes:
    """Return `size` random bytes, the same ones in every process."""
    return random.Random(_BODY_SEED).randbytes(size)


@dataclass(frozen=True)
class Options:
    """The arguments of a server program."""

    certificate: Path
    key: Path
    body_bytes: int
    variant: str
    datagram_bytes: int


class Ready(msgspec.Struct):
    """The first line a server prints: where it listens and what it serves."""

    port: int
    body_sha256: str
    small_sha256: str


@dataclass
class _Upload:
    received_bytes: int = 0
    intact: bool = True


class Application:
    """Answers one connection's requests.

    `room(stream_id)` says whether the library wants another chunk for that stream now. The server
    program calls `pump()` whenever that may have changed.
    """

    def __init__(
        self, http: Any, content: "Content", room: Callable[[int], bool] = lambda _: True
    ) -> None:
        self._http = http
        self._content = content
        self._room = room
        self._next_chunk: dict[int, int] = {}
        self._uploads: dict[int, _Upload] = {}

    def handle(self, event: Any) -> None:
        """Take one HTTP/3 event."""
        kind = type(event).__name__
        if kind == "HeadersReceived":
            headers = dict(event.headers)
            self._request(event.stream_id, headers[b":method"], headers[b":path"])
        elif kind == "DataReceived" and (upload := self._uploads.get(event.stream_id)):
            # `startswith` at an offset compares in place: it costs the same few milliseconds per
            # 100 MB whatever the library, where a hash would cost as much as the transport.
            if not self._content.body.startswith(event.data, upload.received_bytes):
                upload.intact = False
            upload.received_bytes += len(event.data)
            if event.stream_ended:
                self._finish_upload(event.stream_id)

    def pump(self) -> None:
        """Write chunks to the downloads that have room."""
        for stream_id in list(self._next_chunk):
            self._write(stream_id)

    def _request(self, stream_id: int, method: bytes, path: bytes) -> None:
        if (method, path) == (b"GET", b"/body"):
            self._answer(stream_id, len(self._content.body))
            self._next_chunk[stream_id] = 0
            self._write(stream_id)
        elif method == b"GET" and path.startswith(b"/first/"):
            length = int(path.removeprefix(b"/first/"))
            self._answer(stream_id, length)
            self._http.send_data(stream_id, self._content.body[:length], True)
        elif (method, path) == (b"GET", b"/small"):
            self._answer(stream_id, SMALL_BYTES)
            self._http.send_data(stream_id, self._content.small, True)
        elif (method, path) == (b"POST", b"/upload"):
            self._uploads[stream_id] = _Upload()
        else:
            self._http.send_headers(stream_id, [(b":status", b"404")], True)

    def _answer(self, stream_id: int, length: int) -> None:
        self._http.send_headers(
            stream_id,
            [
                (b":status", b"200"),
                (b"content-length", b"%d" % length),
                (b"content-type", b"application/octet-stream"),
            ],
        )

    def _write(self, stream_id: int) -> None:
        chunks = self._content.chunks
        index = self._next_chunk[stream_id]
        while index < len(chunks) and self._room(stream_id):
            self._http.send_data(stream_id, chunks[index], index == len(chunks) - 1)
            index += 1
        if index < len(chunks):
            self._next_chunk[stream_id] = index
        else:
            del self._next_chunk[stream_id]

    def _finish_upload(self, stream_id: int) -> None:
        upload = self._uploads.pop(stream_id)
        answer = b"%d" % upload.received_bytes if upload.intact else b"corrupt"
        self._answer(stream_id, len(answer))
        self._http.send_data(stream_id, answer, True)


class Content:
    """The bytes to serve, cut up once."""

    def __init__(self, body_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.body = make_body(body_bytes)
        self.small = self.body[:SMALL_BYTES]
        self.chunks = [
            self.body[start : start + chunk_bytes] for start in range(0, body_bytes, chunk_bytes)
        ]


def run(start: Callable[[Options, Content], Awaitable[int]], variants: list[str]) -> None:
    """Run a server program: `start` begins to serve and returns the port; stdin's end stops it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--body-bytes", type=int, required=True)
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--datagram-bytes", type=int, default=0, help="0: the library's default")
    options = Options(**vars(parser.parse_args()))
    asyncio.run(_serve(start, options))


async def _serve(start: Callable[[Options, Content], Awaitable[int]], options: Options) -> None:
    whole = options.variant == "whole"
    content = Content(options.body_bytes, options.body_bytes if whole else CHUNK_BYTES)
    port = await start(options, content)
    ready = Ready(
        port=port,
        body_sha256=hashlib.sha256(content.body).hexdigest(),
        small_sha256=hashlib.sha256(content.small).hexdigest(),
    )
    print(msgspec.json.encode(ready).decode(), flush=True)
    # The parent holds the other end of stdin: when it goes away, however it does, so do we.
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopped.set)
    await stopped.wait()
