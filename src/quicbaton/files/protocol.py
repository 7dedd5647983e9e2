"""A folder over HTTP/3, as a protocol whose connections can move in the middle of a download.

It has no coroutines: the state of a download is a file and two offsets. That takes a few bytes,
with which another process goes on. The open file goes along where it can.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from hashlib import blake2b
from time import monotonic, time
from typing import Any, Final

import msgspec
from aioquic.quic import events

from quicbaton.asyncio import access
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.asyncio.requests import RequestCount
from quicbaton.errors import PeerError, StreamStateError
from quicbaton.files.conditions import Validators, Verdict, evaluate, takes_range
from quicbaton.files.dates import http_date
from quicbaton.files.downloads import Download, Downloads, Promise
from quicbaton.files.folder import INDEX_NAME, Folder, Representation, redirect_target
from quicbaton.files.listing import Listings, View
from quicbaton.files.listing_page import CONTENT_SECURITY_POLICY
from quicbaton.files.ranges import ByteRange, wanted_range
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.files.request import Request, parse_request
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.connection import H3Connection
from quicbaton.http3.events import H3Event, HeadersReceived, StreamFailed
from quicbaton.reasons import Reason
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable

_METHODS: Final = (b"GET", b"HEAD")
_REASONS: Final = {
    400: "Bad request",
    403: "Forbidden",
    404: "Not found",
    405: "Only GET and HEAD",
    406: "Not available in an encoding that you accept",
    412: "It has changed",
    414: "No path is so long",
    416: "No such range",
    503: "Too busy",
}
_ETAG_BYTES: Final = 12

Headers = list[tuple[bytes, bytes]]

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Promise])


class FileProtocol(QuicConnectionProtocol):
    """Answers GET and HEAD with the content of `folder`, by conditions, ranges and encodings.

    `listings`: shared by all protocols of a process, so that a page is not made for each.
    `requests` counts those of all of them.
    """

    def __init__(
        self,
        quic: Connection,
        stream_handler: Any = None,
        *,
        folder: Folder,
        listings: Listings | None = None,
        requests: RequestCount | None = None,
    ) -> None:
        super().__init__(quic, stream_handler)
        self._requests = RequestCount() if requests is None else requests
        self._folder = folder
        self._listings = Listings(folder) if listings is None else listings
        self._downloads = Downloads(folder)
        #: Status and bytes of the body of the answer that is made now.
        self._said = (0, 0)

    def count_requests(self, count: RequestCount) -> None:
        self._requests = count

    def close(self, error_code: int = ErrorCode.H3_NO_ERROR, reason_phrase: str = "") -> None:
        """Close the connection in the way that HTTP/3 does without an error."""
        super().close(error_code, reason_phrase)

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, StreamWritable):
            self._fill(event.stream_id)
            return
        if isinstance(event, events.ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._cancel(event.stream_id)
        elif isinstance(event, events.ConnectionTerminated):
            self._downloads.connection_left()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(http_event)

    # --- moving ---------------------------------------------------------------------------------

    def export_state(self) -> bytes:
        """The downloads under way; empty if there are none."""
        promises = self._downloads.promises()
        return _ENCODER.encode(promises) if promises else b""

    def export_descriptors(self) -> Sequence[int]:
        return self._downloads.export_descriptors()

    def import_descriptors(self, descriptors: Sequence[int]) -> None:
        self._downloads.import_descriptors(descriptors)

    def import_state(self, data: bytes) -> None:
        """Go on with the downloads. Those whose file is another one by now are reset."""
        try:
            promises = _DECODER.decode(data) if data else []
        except msgspec.DecodeError as error:
            raise PeerError(
                f"not a file server's state: {error}", code=Reason.IMPORT_FAILED
            ) from error
        self._downloads.go_on(promises, self._quic)

    def connection_left(self) -> None:
        super().connection_left()
        self._downloads.connection_left()

    # --- requests -------------------------------------------------------------------------------

    def _http_event_received(self, event: H3Event) -> None:
        # A request's body is read and dropped; trailers are no request.
        if isinstance(event, HeadersReceived):
            request = parse_request(event.headers)
            if request is not None:
                self._handle(event.stream_id, request)
        elif isinstance(event, StreamFailed):
            # The stream has been reset: it became malformed behind its header section.
            self._downloads.drop(event.stream_id)

    def _handle(self, stream_id: int, request: Request) -> None:
        self._requests.total += 1
        begun_s = monotonic()
        self._said = (0, 0)
        try:
            try:
                if request.method not in _METHODS:
                    raise RefusedRequestError(405, ((b"allow", b"GET, HEAD"),))
                self._answer(stream_id, request)
            except RefusedRequestError as error:
                self._refuse(stream_id, request, error)
        except StreamStateError:
            # The client gave the stream up before the answer: nothing is sent.
            self._downloads.drop(stream_id)
        status, size = self._said
        self._requests.answered["3", status] += 1
        if access.is_on():
            access.write(
                request.method.decode("latin-1"),
                access.shown_target(request.target),
                status,
                client=access.shown_client(self._quic.peer_address),
                http_version="3",
                sent_bytes=size,
                seconds=monotonic() - begun_s,
                connection=self._quic.name.hex(),
            )

    def _answer(self, stream_id: int, request: Request) -> None:
        path, is_folder = self._folder.locate(request.target)
        if is_folder:
            target = request.target.partition("?")[0]
            if not target.endswith("/"):
                location = [(b"location", redirect_target(target))]
                self._send_headers(stream_id, 301, location, ended=True)
                return
            index = f"{path}/{INDEX_NAME}"
            if not os.path.isfile(index) or os.path.islink(index):
                self._send_listing(stream_id, request, path)
                return
            path = index
        shown = self._folder.represent(path, request.fields.get(b"accept-encoding"))
        try:
            promise = self._begin(stream_id, request, shown)
        except BaseException:
            shown.file.release()
            raise
        if promise is None:
            shown.file.release()
            return
        file = self._folder.hold(shown.file)
        self._downloads.add(Download(self._folder, promise, file))
        self._fill(stream_id)

    def _begin(self, stream_id: int, request: Request, shown: Representation) -> Promise | None:
        """Send the header section. Returns the part of the file that follows, None for no body."""
        version = shown.version
        # §8.8.2.1: Last-Modified is never later than Date.
        validators = Validators(version.etag, min(version.modified_s, int(time())))
        fields: Headers = [(b"vary", b"accept-encoding")] if shown.varies else []
        fields += _describe(validators)
        if self._is_settled(stream_id, request, validators, fields):
            return None
        wanted = None
        # §14.2: Range is defined for GET only.
        if not request.is_head and takes_range(request.fields, validators):
            wanted = wanted_range(request.fields.get(b"range"), version.size)
        start, end = wanted or ByteRange(0, version.size)
        if wanted is not None:
            fields.append((b"content-range", wanted.content_range(version.size)))
        if shown.coding:
            fields.append((b"content-encoding", shown.coding))
        fields += [
            (b"content-type", shown.content_type.encode()),
            (b"content-length", b"%d" % (end - start)),
            (b"accept-ranges", b"bytes"),
        ]
        ended = request.is_head or start == end
        status, size = 200 if wanted is None else 206, 0 if ended else end - start
        self._send_headers(stream_id, status, fields, ended=ended, size=size)
        return None if ended else Promise(stream_id, shown.path, version, start, end, b"")

    def _send_listing(self, stream_id: int, request: Request, path: str) -> None:
        page = self._listings.page(path, View.of(request.target), monotonic())
        digest = blake2b(page, digest_size=_ETAG_BYTES).hexdigest()
        validators = Validators(b'"%s"' % digest.encode(), None)
        fields = _describe(validators)
        if self._is_settled(stream_id, request, validators, fields):
            return
        fields += [
            (b"content-security-policy", CONTENT_SECURITY_POLICY),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        self._send_text(stream_id, 200, page, b"text/html", request, fields)

    def _is_settled(
        self, stream_id: int, request: Request, validators: Validators, fields: Headers
    ) -> bool:
        """Whether a condition has settled the answer, by 304 or 412."""
        verdict = evaluate(request.fields, validators)
        if verdict is Verdict.FAILED:
            raise RefusedRequestError(412)
        if verdict is Verdict.NOT_MODIFIED:
            self._send_headers(stream_id, 304, fields, ended=True)
        return verdict is Verdict.NOT_MODIFIED

    def _refuse(self, stream_id: int, request: Request, error: RefusedRequestError) -> None:
        text = f"{_REASONS.get(error.status, 'Error')}\n".encode()
        self._send_text(stream_id, error.status, text, b"text/plain", request, [*error.fields])

    def _send_text(
        self,
        stream_id: int,
        status: int,
        text: bytes,
        kind: bytes,
        request: Request,
        extra: Headers,
    ) -> None:
        fields = [
            (b"content-type", kind + b"; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            *extra,
        ]
        size = 0 if request.is_head else len(text)
        self._send_headers(stream_id, status, fields, ended=request.is_head, size=size)
        if not request.is_head:
            assert self._http is not None
            self._http.send_data(stream_id, text, True)

    def _send_headers(
        self, stream_id: int, status: int, fields: Headers, *, ended: bool, size: int = 0
    ) -> None:
        """`size`: bytes of the body that follows."""
        assert self._http is not None, "an HTTP/3 event came out of it"
        head = [(b":status", b"%d" % status), (b"date", http_date(int(time())))]
        self._http.send_headers(stream_id, [*head, *fields], ended)
        self._said = status, size

    def _fill(self, stream_id: int) -> None:
        if self._http is not None:
            self._downloads.fill(stream_id, self._quic, self._http)

    def _cancel(self, stream_id: int) -> None:
        """The client wants no answer any more (RFC 9114 §4.1.1)."""
        if self._downloads.drop(stream_id):
            with contextlib.suppress(StreamStateError):
                self._quic.reset_stream(stream_id, ErrorCode.H3_NO_ERROR)


def _describe(validators: Validators) -> Headers:
    fields = [(b"etag", validators.etag)]
    if validators.modified_s is not None:
        fields.append((b"last-modified", http_date(validators.modified_s)))
    return fields
