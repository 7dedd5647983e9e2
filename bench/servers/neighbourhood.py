"""A file server that takes uploads and WebTransport, too, for the innocent clients of an attack.

`quicbaton serve --app bench.servers.neighbourhood:Neighbourhood` serves the folder that
NEIGHBOURHOOD names. A POST is answered with the SHA-256 of its body; a WebTransport session gets
back the bytes that it sends on its streams.
"""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from aioquic.h3.events import DataReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from quicbaton.files import FileProtocol, Folder
from quicbaton.http3 import H3Connection


@cache
def _folder() -> Folder:
    return Folder(Path(os.environ["NEIGHBOURHOOD"]))


class Neighbourhood(FileProtocol):
    """Answers GET as the file server does."""

    def __init__(self, quic: Any, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler, folder=_folder())
        self._uploads: dict[int, Any] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic, enable_webtransport=True)
        else:
            super().quic_event_received(event)

    def _http_event_received(self, event: H3Event) -> None:
        http = self._http
        assert http is not None
        if isinstance(event, WebTransportStreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.stream_ended)
            return
        if isinstance(event, HeadersReceived):
            fields = dict(event.headers)
            if fields.get(b":protocol") == b"webtransport":
                http.send_headers(event.stream_id, [(b":status", b"200")])
                return
            if fields.get(b":method") == b"POST":
                self._uploads[event.stream_id] = hashlib.sha256()
                return
        elif isinstance(event, DataReceived) and event.stream_id in self._uploads:
            self._uploads[event.stream_id].update(event.data)
            if event.stream_ended:
                digest = self._uploads.pop(event.stream_id).hexdigest().encode()
                http.send_headers(event.stream_id, [(b":status", b"200")])
                http.send_data(event.stream_id, digest, True)
            return
        super()._http_event_received(event)
