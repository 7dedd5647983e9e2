"""An HTTP request and its response, as messages of ASGI (HTTP 2.4)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from quicbaton.asgi.exchange import (
    CLIENT_GONE,
    Arrived,
    Exchange,
    Fields,
    Wire,
    bytes_of,
    fields_of,
)
from quicbaton.asgi.scope import Message, Scope
from quicbaton.files.downloads import CHUNK_BYTES, Download

_NO_BODY: Final = frozenset({204, 304})  # RFC 9110 §15.3.5, §15.4.5


class _Stage(Enum):
    BEFORE = auto()  # nothing of the response is said
    HEAD = auto()  # its head is said, and waits for the first of its body
    BODY = auto()
    TRAILERS = auto()
    DONE = auto()


class HttpExchange(Exchange):
    """One request. `ended`: it has no body."""

    can_begin_elsewhere = True

    def __init__(self, wire: Wire, stream_id: int, scope: Scope, *, ended: bool) -> None:
        super().__init__(wire, stream_id, scope)
        self._body = bytearray()
        self._body_ended = ended
        self._body_told = False
        self._stage = _Stage.BEFORE
        self._has_body = scope["method"] != "HEAD"
        self._head: Fields = []
        self._trailers: Fields = []
        self._awaits_trailers = False
        #: Bytes that are missing of the content-length that the program has given; None: it gave
        #: none.
        self._owed_bytes: int | None = None

    def feed(self, data: bytes, *, ended: bool) -> None:
        self._body += data
        if data and not ended:
            self.hold_back()
        self._body_ended |= ended
        self.tell()

    @property
    def held_bytes(self) -> int:
        return len(self._body)

    def arrived(self) -> Arrived:
        return Arrived(bytes(self._body), self._body_ended)

    def conclude(self) -> bool:
        return self._stage is _Stage.DONE

    def fail(self) -> None:
        """Answer with status 500. A response that is written in part is reset, since a short body
        must not look like a whole one."""
        stage, self._stage = self._stage, _Stage.DONE
        if self.is_disconnected or stage is _Stage.DONE:
            return
        if stage in (_Stage.BODY, _Stage.TRAILERS):
            self.wire.abort(self.stream_id)
            return
        with contextlib.suppress(*CLIENT_GONE):  # the client gave it up meanwhile
            send_text(self, 500, b"Internal Server Error")

    async def receive(self) -> Message:
        if self._body_told:
            while not self._is_over:
                await self.wait_for_news()
            return {"type": "http.disconnect"}
        while not self._body and not self._body_ended and not self._is_over:
            await self.wait_for_news()
        if self._is_over and not self._body_ended:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._body_told = self._body_ended
        self.let_on()
        return {"type": "http.request", "body": body, "more_body": not self._body_told}

    @property
    def _is_over(self) -> bool:
        """Whether nothing can come any more: the client is gone, or it has its answer and was told
        to stop."""
        return self.is_disconnected or self._stage is _Stage.DONE

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._stage is _Stage.BEFORE:
            self._begin(message)
        elif kind == "http.response.body" and self._stage in (_Stage.HEAD, _Stage.BODY):
            more = message.get("more_body", False)
            await self._send_body(bytes_of(message.get("body", b""), "body"), more=more)
        elif kind == "http.response.pathsend" and self._stage is _Stage.HEAD:
            path = os.fspath(message["path"])
            await self._send_file(lambda: self.wire.open_file(self.stream_id, path), more=False)
        elif kind == "http.response.zerocopysend" and self._stage in (_Stage.HEAD, _Stage.BODY):
            more = message.get("more_body", False)
            await self._send_file(lambda: self._open_part(message), more=more)
        elif kind == "http.response.trailers" and self._stage is _Stage.TRAILERS:
            self._send_trailers(message)
        elif kind == "http.response.early_hint" and self._stage in (_Stage.BEFORE, _Stage.HEAD):
            links = [(b"link", bytes_of(link, "links")) for link in message["links"]]
            self.wire.send_headers(self.stream_id, [(b":status", b"103"), *links], ended=False)
        else:
            raise RuntimeError(f"{kind!r} may not come next in a response")

    # --- helpers, in reading order --------------------------------------------------------------

    def _begin(self, message: Message) -> None:
        status = self.status = int(message["status"])
        self._head = [(b":status", b"%d" % status), *fields_of(message)]
        self._has_body &= status not in _NO_BODY
        self._awaits_trailers = bool(message.get("trailers", False))
        self._owed_bytes = _content_length(self._head) if self._has_body else None
        self._stage = _Stage.HEAD

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        ended = not more and not self._awaits_trailers
        data = data if self._has_body else b""
        self._check_length(len(data), more=more)
        if self._owed_bytes is not None:
            self._owed_bytes -= len(data)
        if self._stage is _Stage.HEAD:
            alone = ended and not data
            self.wire.send_headers(self.stream_id, self._head, ended=alone)
            self._stage = _Stage.BODY
            if alone:
                self._end()
                return
        if data or ended:
            await self.write(lambda: data, ended=ended)
        if ended:
            self._end()
        elif not more:
            self._stage = _Stage.TRAILERS

    def _check_length(self, size: int, *, more: bool) -> None:
        """RFC 9110 §8.6: a body is as long as its content-length says. RuntimeError if not."""
        owed = self._owed_bytes
        if owed is not None and (size > owed or (size < owed and not more)):
            what = "more" if size > owed else "fewer"
            raise RuntimeError(f"the response has {what} bytes than its content-length says")

    async def _send_file(self, open_file: Callable[[], Download], *, more: bool) -> None:
        """Send a file, or a part of one, as the body or a part of the body."""
        if not self._has_body:
            await self._send_body(b"", more=more)
            return
        download = open_file()
        try:
            self._check_length(download.left_bytes, more=more)
            if more or self._awaits_trailers or self._writers or not download.is_named:
                await self._send_pieces(download, more=more)
            else:
                self._hand_over(download)
        except BaseException:
            download.release()
            raise

    async def _send_pieces(self, download: Download, *, more: bool) -> None:
        """Send the file as any other body, since the program sends more after it."""
        while not download.is_complete:
            await self._send_body(download.read(CHUNK_BYTES), more=True)
        download.release()
        await self._send_body(b"", more=more)

    def _hand_over(self, download: Download) -> None:
        """Make the rest of the response data that moves. The program has no further part in it."""
        ended = download.is_complete
        if self._stage is _Stage.HEAD:
            self.wire.send_headers(self.stream_id, self._head, ended=ended)
        elif ended:
            self.wire.send_data(self.stream_id, b"", ended=True)
        self.sent_bytes += download.left_bytes
        self.wire.send_file(download)
        self._body.clear()
        self._body_told = True
        self.let_on()
        self._end()

    def _open_part(self, message: Message) -> Download:
        """Open the part that a Zero Copy Send message names. Without an offset it begins at the
        file's position, and the position moves past it."""
        file, offset, count = message["file"], message.get("offset"), message.get("count")
        if offset is not None:
            return self.wire.open_part(self.stream_id, file.fileno(), offset, count)
        download = self.wire.open_part(self.stream_id, file.fileno(), file.tell(), count)
        file.seek(download.promise.end)
        return download

    def _send_trailers(self, message: Message) -> None:
        self._trailers += fields_of(message)
        if message.get("more_trailers", False):
            return
        if self._trailers and "http.response.trailers" in self.scope["extensions"]:
            self.wire.send_headers(self.stream_id, self._trailers, ended=True)
        else:
            self.wire.send_data(self.stream_id, b"", ended=True)
        self._end()

    def _end(self) -> None:
        self._stage = _Stage.DONE
        self.tell()


def _content_length(head: Fields) -> int | None:
    values = [value.strip() for name, value in head if name == b"content-length"]
    if not values:
        return None
    if values.count(values[0]) < len(values) or not values[0].isdigit():
        raise RuntimeError(f"content-length is one number, not {b', '.join(values)!r}")
    return int(values[0])


def send_text(exchange: Exchange, status: int, text: bytes) -> None:
    """Answer a request with a short text of our own."""
    fields = [
        (b":status", b"%d" % status),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text)),
    ]
    exchange.status = status
    without_body = exchange.scope.get("method") == "HEAD"
    exchange.wire.send_headers(exchange.stream_id, fields, ended=without_body)
    if not without_body:
        exchange.sent_bytes = len(text)
        exchange.wire.send_data(exchange.stream_id, text, ended=True)
