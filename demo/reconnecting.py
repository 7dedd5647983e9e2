"""A client whose server restarts without handoffs: it closes, connects and asks again.

Run as a process of its own (`python -m demo.reconnecting URL --ca FILE`) it prints a JSON list: for
every time, the nanoseconds from giving up one connection to the next body byte on a new one. It
asks for the rest only, and keeps its handle, as a good client does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import pycurl

_TIMES: Final = 15
#: Bytes that arrive before the next break.
_BYTES: Final = 1 << 20
_TIMEOUT_MS: Final = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.reconnecting")
    parser.add_argument("url")
    parser.add_argument("--ca", type=Path, required=True)
    options = parser.parse_args(arguments)
    print(msgspec.json.encode(measure(options.url, options.ca)).decode())
    return 0


def measure(url: str, ca_file: Path) -> list[int]:
    """Nanoseconds from a connection's end to the next one's first body byte, several times."""
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.CAINFO, str(ca_file))
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT_MS, _TIMEOUT_MS)
    curl.setopt(pycurl.FRESH_CONNECT, 1)
    curl.setopt(pycurl.FORBID_REUSE, 1)
    received = 0
    ended_ns = 0
    gaps: list[int] = []
    for _ in range(_TIMES + 1):
        begun = False
        stop = received + _BYTES

        def write(piece: bytes) -> int:
            nonlocal received, begun, ended_ns
            now_ns = time.monotonic_ns()
            if not begun and ended_ns:
                gaps.append(now_ns - ended_ns)
            begun = True
            received += len(piece)
            ended_ns = now_ns
            return len(piece) if received < stop else -1  # noqa: B023 - called within the turn

        curl.setopt(pycurl.RANGE, f"{received}-")
        curl.setopt(pycurl.WRITEFUNCTION, write)
        try:
            curl.perform()
        except pycurl.error as error:
            if error.args[0] != pycurl.E_WRITE_ERROR:
                raise
    curl.close()
    return gaps


if __name__ == "__main__":
    sys.exit(main())
