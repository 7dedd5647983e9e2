"""A folder over HTTP/3, as a protocol whose connections can move in the middle of a download.

It is written without coroutines: what a download still needs is a file and two offsets, so it can
be said in a few bytes and taken up by another process. There the file is opened again; if it is
not the same any more, the stream is reset, since half of one file and half of another is nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic import events

from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.cli.folder import INDEX_NAME, File, Folder, FolderError
from quicbaton.errors import PeerError, StreamStateError
from quicbaton.http3.connection import H3Connection
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable

#: One DATA frame. What has been read is carried by a handoff, what has not is read again there.
CHUNK_BYTES: Final = 256 << 10

# RFC 9114 §8.1
H3_NO_ERROR: Final = 0x100
H3_INTERNAL_ERROR: Final = 0x102

_METHODS: Final = (b"GET", b"HEAD")
_REASONS: Final = {
    400: "Bad request",
    403: "Forbidden",
    404: "Not found",
    405: "Only GET and HEAD",
    416: "No such range",
    503: "Too busy",
}

Headers = list[tuple[bytes, bytes]]


class _Download(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A response whose body is not yet written to its end. It travels as it is."""

    stream_id: int
    file: File
    offset: int  # of the next byte to read
    end: int


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[_Download])


class FileProtocol(QuicConnectionProtocol):
    """Answers GET and HEAD, ranges included, with what `folder` contains."""

    def __init__(self, quic: Connection, stream_handler: Any = None, *, folder: Folder) -> None:
        super().__init__(quic, stream_handler)
        self._folder = folder
        self._downloads: dict[int, _Download] = {}

    def close(self, error_code: int = H3_NO_ERROR, reason_phrase: str = "") -> None:
        """Close the connection, as HTTP/3 does it without an error."""
        super().close(error_code, reason_phrase)

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, StreamWritable):
            self._write(event.stream_id)
            return
        if isinstance(event, events.ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._cancel(event.stream_id)
        elif isinstance(event, events.ConnectionTerminated):
            self._downloads.clear()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(http_event)

    def export_state(self) -> bytes:
        """The downloads that are under way, if any."""
        return _ENCODER.encode(list(self._downloads.values())) if self._downloads else b""

    def import_state(self, data: bytes) -> None:
        """Go on with downloads, or reset them if their file has changed.

        Writing begins with `StreamWritable`, which every unfinished download is owed.
        """
        if not data:
            return
        try:
            downloads = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise PeerError(f"not a file server's state: {error}", code="application") from error
        for download in downloads:
            if self._folder.has(download.file):
                self._downloads[download.stream_id] = download
            else:
                self._quic.reset_stream(download.stream_id, H3_INTERNAL_ERROR)

    # --- requests -------------------------------------------------------------------------------

    def _http_event_received(self, event: H3Event) -> None:
        # A request's body is read and dropped, and so are trailers, which have no method.
        if not isinstance(event, HeadersReceived):
            return
        headers = dict(event.headers)
        method = headers.get(b":method")
        if method is None:
            return
        stream_id = event.stream_id
        try:
            if method not in _METHODS:
                raise FolderError(405)
            self._answer(stream_id, headers, is_head=method == b"HEAD")
        except FolderError as error:
            self._refuse(stream_id, error.status, is_head=method == b"HEAD")
        except StreamStateError:
            # The client gave the stream up before we came to answer: nobody waits.
            self._downloads.pop(stream_id, None)

    def _answer(self, stream_id: int, headers: dict[bytes, bytes], *, is_head: bool) -> None:
        target = headers.get(b":path", b"").decode("latin-1")
        found = self._folder.locate(target)
        path = target.partition("?")[0]
        if found.is_dir():
            if not path.endswith("/"):
                # One slash in front: a second would make it another host's URL.
                location = quote("/" + path.lstrip("/"), safe="/%") + "/"
                self._send_headers(stream_id, 301, [(b"location", location.encode())], ended=True)
                return
            index = found / INDEX_NAME
            if not index.is_file() or index.is_symlink():
                self._send_text(stream_id, 200, self._folder.list(found), b"text/html", is_head)
                return
            found = index
        file = self._folder.describe(found)
        start, end = _wanted(headers.get(b"range"), file.identity.size)
        self._send_file_headers(stream_id, file, start, end, is_head=is_head)
        if start < end and not is_head:
            self._downloads[stream_id] = _Download(stream_id, file, start, end)
            self._write(stream_id)

    def _send_file_headers(
        self, stream_id: int, file: File, start: int, end: int, *, is_head: bool
    ) -> None:
        size = file.identity.size
        fields = [
            (b"content-type", file.content_type.encode()),
            (b"content-length", b"%d" % (end - start)),
            (b"accept-ranges", b"bytes"),
        ]
        partial = end - start < size
        if partial:
            fields.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)))
        ended = is_head or start == end
        self._send_headers(stream_id, 206 if partial else 200, fields, ended=ended)

    def _refuse(self, stream_id: int, status: int, *, is_head: bool) -> None:
        text = f"{_REASONS.get(status, 'Error')}\n".encode()
        extra = [(b"allow", b"GET, HEAD")] if status == 405 else []
        with contextlib.suppress(StreamStateError):
            self._send_text(stream_id, status, text, b"text/plain", is_head, extra)

    def _send_text(
        self,
        stream_id: int,
        status: int,
        text: bytes,
        kind: bytes,
        is_head: bool,
        extra: Headers | None = None,
    ) -> None:
        fields = [
            (b"content-type", kind + b"; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            *(extra or []),
        ]
        self._send_headers(stream_id, status, fields, ended=is_head)
        if not is_head:
            assert self._http is not None
            self._http.send_data(stream_id, text, True)

    def _send_headers(self, stream_id: int, status: int, fields: Headers, *, ended: bool) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.send_headers(stream_id, [(b":status", b"%d" % status), *fields], ended)

    # --- bodies ---------------------------------------------------------------------------------

    def _write(self, stream_id: int) -> None:
        """Write until the stream's buffer is full or the file is at its end."""
        download = self._downloads.get(stream_id)
        http = self._http
        if download is None or http is None:
            return
        while download.offset < download.end:
            if self._quic.is_congested(stream_id):
                return
            size = min(CHUNK_BYTES, download.end - download.offset)
            try:
                data = self._folder.read(download.file, download.offset, size)
                download.offset += size
                http.send_data(stream_id, data, download.offset == download.end)
            except FolderError:
                # The file was cut off or replaced: a short body must not look like a whole one.
                self._quic.reset_stream(stream_id, H3_INTERNAL_ERROR)
                break
            except StreamStateError:
                break
        del self._downloads[stream_id]

    def _cancel(self, stream_id: int) -> None:
        """The client wants no answer any more (RFC 9114 §4.1.1)."""
        if self._downloads.pop(stream_id, None) is not None:
            with contextlib.suppress(StreamStateError):
                self._quic.reset_stream(stream_id, H3_NO_ERROR)


def _wanted(value: bytes | None, size: int) -> tuple[int, int]:
    """The bytes that a Range header asks for: first, one past the last. All of them for a header
    that is not one range of bytes, which RFC 9110 §14.2 lets a server ignore."""
    if value is None or not value.startswith(b"bytes=") or b"," in value:
        return 0, size
    first, dash, last = value.removeprefix(b"bytes=").strip().partition(b"-")
    if not dash or not (first + last).isdigit():
        return 0, size
    if not first:
        return max(0, size - int(last)), size
    start = int(first)
    end = min(size, int(last) + 1) if last else size
    if start >= size or end <= start:
        raise FolderError(416)
    return start, end
