"""libcurl in a process of its own: `python curl_client.py URL CA [--upload BYTES] [--header TEXT]`.

The body comes to stdout as it arrives. An upload goes slowly until SIGUSR1 comes. The exit status
is libcurl's error, 0 for a whole response.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pycurl

_SLOW_BYTES = 4_096
_SLOW_PAUSE_S = 0.01
_GUARD_S = 60


def content(size: int) -> bytes:
    """The bytes of an upload of that size."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Curl:
    """A running one, for tests."""

    def __init__(self, home: Any, url: str, *options: str) -> None:
        # It inherits the mask: a signal that comes before it can take it waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
        try:
            self._process = subprocess.Popen(
                [sys.executable, __file__, url, str(home.ca), *options],
                stdout=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        home.adopt(self._process)
        assert self._process.stdout is not None
        self._lines = self._process.stdout

    def line(self) -> str:
        """The next of the body's lines."""
        return self._lines.readline().rstrip("\n")

    def hurry(self) -> None:
        """Upload the rest as fast as it goes."""
        self._process.send_signal(signal.SIGUSR1)

    def end(self) -> tuple[list[str], int]:
        """The rest of the body's lines, and libcurl's error."""
        rest = self._lines.read().splitlines()
        return rest, self._process.wait(_GUARD_S)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("ca", type=Path)
    parser.add_argument("--upload", type=int)
    parser.add_argument("--form", metavar="FIELD", help="upload it as a file in this form field")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, options.url)
    curl.setopt(pycurl.CAINFO, str(options.ca))
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.FAILONERROR, 1)
    curl.setopt(pycurl.WRITEFUNCTION, _write)
    headers = list(options.header)
    if options.upload is not None:
        body = content(options.upload)
        if options.form:
            headers.append("Content-Type: multipart/form-data; boundary=limit")
            head = f'Content-Disposition: form-data; name="{options.form}"; filename="some"'
            body = b"--limit\r\n%s\r\n\r\n%s\r\n--limit--\r\n" % (head.encode(), body)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
        curl.setopt(pycurl.READFUNCTION, _Slowly(body).read)
        headers.append("Expect:")
    curl.setopt(pycurl.HTTPHEADER, headers)
    try:
        curl.perform()
    except pycurl.error as error:
        print(error, file=sys.stderr)
        return int(error.args[0])
    return 0


class _Slowly:
    """A body that is read in small pieces until the signal."""

    def __init__(self, body: bytes) -> None:
        self._left = memoryview(body)
        self._hurry = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: self._hurry.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))

    def read(self, size: int) -> bytes:
        if not self._hurry.is_set():
            time.sleep(_SLOW_PAUSE_S)
            size = min(size, _SLOW_BYTES)
        piece, self._left = self._left[:size], self._left[size:]
        return bytes(piece)


def _write(body: bytes) -> None:
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
