"""Download one URL with qh3, as `python -m tests.clients.qh3_download HOST PORT PATH CERTIFICATE`.

The download is repeated until stdin ends, and is made at least once. Prints one JSON line: status,
bytes, SHA-256 of all bodies in a row, and an error when there was one. It connects once and never
again, so bodies that arrive whole arrived over one connection.
"""

import asyncio
import hashlib
import json
import ssl
import sys
from pathlib import Path
from typing import Any

from qh3.asyncio import QuicConnectionProtocol, connect
from qh3.h3.connection import H3_ALPN, H3Connection
from qh3.h3.events import DataReceived, HeadersReceived
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.events import ConnectionTerminated, QuicEvent

_TIMEOUT_S = 120


class _Downloader(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status = 0
        self.received_bytes = 0
        self.error = ""
        self.sha256 = hashlib.sha256()
        self.finished = asyncio.Event()
        self._http = H3Connection(self._quic)

    def request(self, authority: str, path: str) -> None:
        stream_id = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
        ]
        self._http.send_headers(stream_id, headers, end_stream=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated) and not self.finished.is_set():
            self.error = f"closed with {event.error_code}: {event.reason_phrase}"
            self.finished.set()
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.status = int(dict(http_event.headers)[b":status"])
            elif isinstance(http_event, DataReceived):
                self.received_bytes += len(http_event.data)
                self.sha256.update(http_event.data)
            if getattr(http_event, "stream_ended", False):
                self.finished.set()


async def _download(host: str, port: int, path: str, certificate: Path) -> bool:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=host)
    # qh3 takes no certificate that is its own issuer; it can be told which one to expect, though.
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    configuration.verify_mode = ssl.CERT_NONE
    configuration.assert_fingerprint = hashlib.sha256(der).hexdigest()
    async with connect(
        host, port, configuration=configuration, create_protocol=_Downloader
    ) as client:
        enough = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while True:
            client.request(f"{host}:{port}", path)
            await asyncio.wait_for(client.finished.wait(), _TIMEOUT_S)
            if client.error or enough.done():
                break
            client.finished.clear()
        outcome = {
            "status": client.status,
            "received_bytes": client.received_bytes,
            "sha256": client.sha256.hexdigest(),
            "error": client.error,
        }
        print(json.dumps(outcome), flush=True)
        return client.status == 200 and not client.error


if __name__ == "__main__":
    _host, _port, _path, _certificate = sys.argv[1:]
    sys.exit(0 if asyncio.run(_download(_host, int(_port), _path, Path(_certificate))) else 1)
