"""Innocent clients beside an attack: libcurl over HTTP/3, recording the longest wait.

Three connections, a thread each: one asks for a small file again and again, one downloads a
megabyte again and again and measures the pauses between the pieces of the body, and one uploads and
measures the time until it has the answer. A line on stdin is answered with the longest waits since
the line before, the present one included.
"""

import hashlib
import sys
import threading
import time
from pathlib import Path

import msgspec
import pycurl

_TIMEOUT_S = 60
#: Between two requests: the clients should not be the load that is measured.
_PAUSE_S = 0.01
_UPLOAD = bytes(range(256)) * 256


class Waits(msgspec.Struct):
    """Since the last question. `broken`: requests that failed, bodies that were not right and
    connections that had to be opened anew."""

    request_ms: float
    body_ms: float
    upload_ms: float
    requests: int
    downloads: int
    uploads: int
    broken: list[str]


class _Client(threading.Thread):
    """One connection that asks for one file."""

    def __init__(self, url: str, ca_file: Path, sha256: str, upload: bytes = b"") -> None:
        """Each answer is to have that hash; with `upload` as the request's body."""
        super().__init__(daemon=True)
        self._sha256 = sha256
        self._curl = pycurl.Curl()
        for option, value in (
            (pycurl.URL, url),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY),
            (pycurl.CAINFO, str(ca_file)),
            (pycurl.PROXY, ""),
            (pycurl.NOSIGNAL, 1),
            (pycurl.TIMEOUT, _TIMEOUT_S),
            (pycurl.WRITEFUNCTION, self._on_piece),
        ):
            self._curl.setopt(option, value)
        if upload:
            self._curl.setopt(pycurl.POSTFIELDS, upload)
            self._curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
        self._digest = hashlib.sha256()
        self._connected = False
        self._lock = threading.Lock()
        self._waits_since = 0.0
        self._longest_s = 0.0
        self._done = 0
        self._broken: list[str] = []

    def ask_once(self) -> None:
        """One request, waited for."""
        self._digest = hashlib.sha256()
        self._waits_since = time.perf_counter()
        try:
            self._curl.perform()
        except pycurl.error as error:
            self._broken.append(str(error))
        self._note()
        self._waits_since = 0.0
        self._done += 1
        if self._digest.hexdigest() != self._sha256:
            self._broken.append("a body was not right")
        if self._connected and self._curl.getinfo(pycurl.NUM_CONNECTS):
            self._broken.append("the connection had to be opened anew")
        self._connected = True

    def run(self) -> None:
        while True:
            self.ask_once()
            time.sleep(_PAUSE_S)

    def take(self) -> tuple[float, int, list[str]]:
        """The longest wait in ms, how many answers came, what broke; all since the last call."""
        self._note()
        with self._lock:
            taken = (round(self._longest_s * 1000, 2), self._done, self._broken)
            self._longest_s, self._done, self._broken = 0.0, 0, []
        return taken

    def _on_piece(self, piece: bytes) -> None:
        self._note()
        self._waits_since = time.perf_counter()
        self._digest.update(piece)

    def _note(self) -> None:
        since = self._waits_since
        if since:
            with self._lock:
                self._longest_s = max(self._longest_s, time.perf_counter() - since)


def main() -> None:
    """PORT CA SMALL-SHA256 BODY-SHA256: ask for /small and /body until stdin ends; upload."""
    port, ca_file, small, body = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    site = f"https://localhost:{port}"
    # An upload's answer is the hash of its body.
    answer = hashlib.sha256(hashlib.sha256(_UPLOAD).hexdigest().encode()).hexdigest()
    clients = [
        _Client(f"{site}/small", ca_file, small),
        _Client(f"{site}/body", ca_file, body),
        _Client(f"{site}/upload", ca_file, answer, _UPLOAD),
    ]
    for client in clients:
        client.ask_once()
        client.take()
        client.start()
    print("ready", flush=True)
    for _ in sys.stdin:
        (request_ms, requests, a), (body_ms, bodies, b), (upload_ms, uploads, c) = (
            client.take() for client in clients
        )
        waits = Waits(request_ms, body_ms, upload_ms, requests, bodies, uploads, a + b + c)
        print(msgspec.json.encode(waits).decode(), flush=True)


if __name__ == "__main__":
    main()
