"""libcurl as the witness of handoffs: downloads that record when every piece of the body came.

Lines on stdin are commands, lines on stdout their results. Bodies are kept whole and hashed when
the clock has stopped. Times are CLOCK_MONOTONIC, which compares across processes.
"""

import hashlib
import sys
from pathlib import Path
from time import monotonic_ns

import msgspec
import pycurl

_TIMEOUT_S = 60


class Order(msgspec.Struct):
    """`download` these bytes, or `reconnect` that often: each a new connection and a request.

    `hold` downloads over a connection that stays open, the one of the `hold` before if any. With
    `rate` the server is asked to send so many bytes per second, as a live stream comes."""

    operation: str
    port: int
    size: int
    count: int = 1
    rate: int = 0


class Account(msgspec.Struct):
    """The result: (time in ns, bytes so far) for every piece; ns to each first byte."""

    error: str = ""
    started_ns: int = 0
    samples: list[tuple[int, int]] = []
    first_byte_ns: list[int] = []
    sha256: str = ""
    connections: int = 0


class _Download:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.samples: list[tuple[int, int]] = []
        self._received = 0

    def write(self, piece: bytes) -> None:
        self._received += len(piece)
        self.samples.append((monotonic_ns(), self._received))
        self.pieces.append(piece)


def _handle(ca_file: Path, port: int, size: int) -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.CAINFO, str(ca_file))
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT, _TIMEOUT_S)
    curl.setopt(pycurl.URL, f"https://localhost:{port}/{size}")
    curl.setopt(pycurl.RESOLVE, [f"localhost:{port}:127.0.0.1"])
    return curl


def _download(ca_file: Path, order: Order) -> Account:
    watch = _Download()
    curl = _handle(ca_file, order.port, order.size)
    if order.rate:
        curl.setopt(pycurl.URL, f"https://localhost:{order.port}/{order.size}?{order.rate}")
    curl.setopt(pycurl.WRITEFUNCTION, watch.write)
    started_ns = monotonic_ns()
    curl.perform()
    digest = hashlib.sha256()
    for piece in watch.pieces:
        digest.update(piece)
    account = Account(
        started_ns=started_ns,
        samples=watch.samples,
        sha256=digest.hexdigest(),
        connections=curl.getinfo(pycurl.NUM_CONNECTS),
    )
    curl.close()
    return account


_held: list[pycurl.Curl] = []


def _hold(ca_file: Path, order: Order) -> Account:
    watch = _Download()
    if not _held:
        _held.append(_handle(ca_file, order.port, order.size))
    _held[0].setopt(pycurl.WRITEFUNCTION, watch.write)
    _held[0].perform()
    return Account(samples=watch.samples, connections=_held[0].getinfo(pycurl.NUM_CONNECTS))


def _reconnect(ca_file: Path, order: Order) -> Account:
    """From the decision to connect anew to the first byte of the body, `count` times."""
    account = Account()
    for _ in range(order.count):
        watch = _Download()
        curl = _handle(ca_file, order.port, order.size)
        curl.setopt(pycurl.WRITEFUNCTION, watch.write)
        begun_ns = monotonic_ns()
        curl.perform()
        account.first_byte_ns.append(watch.samples[0][0] - begun_ns)
        curl.close()
    return account


_OPERATIONS = {"download": _download, "hold": _hold, "reconnect": _reconnect}


def main() -> None:
    """Answer every line of stdin with a line on stdout."""
    ca_file = Path(sys.argv[1])
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        try:
            account = _OPERATIONS[order.operation](ca_file, order)
        except pycurl.error as failure:
            account = Account(error=str(failure))
        print(msgspec.json.encode(account).decode(), flush=True)


if __name__ == "__main__":
    main()
