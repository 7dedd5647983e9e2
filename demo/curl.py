"""An unmodified client for the demo and the tests: libcurl over HTTP/3, through the pycurl wheel.

Run as a process of its own (`python -m demo.curl URL --ca FILE`) it prints one JSON
object a line: progress while the body arrives, then the outcome. Times are CLOCK_MONOTONIC, so
they compare with those that the server processes of the same machine report.
"""

import argparse
import hashlib
import itertools
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import msgspec
import pycurl

#: A transfer in which nothing arrives for so long has failed: a test must end.
DEFAULT_TIMEOUT_S = 120.0

_PROGRESS_INTERVAL_NS = 50_000_000
#: How soon a signal that ends the limits is noticed, when it comes just before a wait.
_LOOK_S = 0.05
_TRICKLE_NS = 1_500_000_000
_IDLE_S = 1.0
_HTTP_VERSION_3 = 30  # what CURLINFO_HTTP_VERSION says for any kind of HTTP/3


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Body bytes received up to a moment, and the longest pause between two pieces of the body
    since the last report."""

    at_ns: int
    received_bytes: int
    pause_ns: int


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """How a download ended; `error` is empty when it succeeded."""

    error: str
    status: int
    http3: bool
    received_bytes: int
    sha256: str
    connections: int
    started_ns: int
    connected_ns: int
    first_byte_ns: int
    ended_ns: int
    samples: list[tuple[int, int]]
    """(time in ns, body bytes so far) for every piece of the body that curl handed over."""

    @property
    def ok(self) -> bool:
        """True when the whole body of a 200 arrived over HTTP/3."""
        return not self.error and self.status == 200 and self.http3


def download(
    url: str,
    *,
    ca_file: Path,
    max_bytes_per_s: int = 0,
    hold_at: int = 0,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_progress: Callable[[Progress], None] | None = None,
    unlimited: Event | None = None,
) -> Outcome:
    """Fetch `url` over HTTP/3 and nothing else, on a new connection, verifying the certificate.

    Keeps a hash of the body, not the body. `max_bytes_per_s` of 0 means as fast as it comes; with
    a limit it is the client that waits, so what its stream window holds hides short pauses of the
    server. After `hold_at` bytes, if that is not 0, it takes 16 KB at most now and then: a client
    that took nothing would not read its socket either. Both limits end when `unlimited` is set.
    `on_progress` is called every 50 ms at most. It ends with libcurl's error 28 when nothing of the
    body has come for `timeout_s`.
    """
    recorder = _Recorder(on_progress, max_bytes_per_s, hold_at, unlimited or Event())
    curl = _handle(url, ca_file)
    curl.setopt(pycurl.WRITEFUNCTION, recorder.write)
    started_ns = time.monotonic_ns()
    error = _perform(curl, recorder, timeout_s)
    ended_ns = time.monotonic_ns()
    outcome = Outcome(
        error=error,
        status=curl.getinfo(pycurl.RESPONSE_CODE),
        http3=curl.getinfo(pycurl.INFO_HTTP_VERSION) == _HTTP_VERSION_3,
        received_bytes=recorder.received_bytes,
        sha256=recorder.sha256.hexdigest(),
        connections=curl.getinfo(pycurl.NUM_CONNECTS),
        started_ns=started_ns,
        connected_ns=started_ns + int(curl.getinfo(pycurl.APPCONNECT_TIME) * 1e9),
        first_byte_ns=recorder.samples[0][0] if recorder.samples else 0,
        ended_ns=ended_ns,
        samples=recorder.samples,
    )
    curl.close()
    return outcome


def longest_pause_ns(
    samples: Sequence[tuple[int, int]], *, around_ns: int, within_ns: int
) -> int | None:
    """Return the longest pause between body bytes that overlaps `around_ns` ± `within_ns`.

    None when no pause between two samples touches that window.
    """
    first, last = around_ns - within_ns, around_ns + within_ns
    pauses = [
        later[0] - earlier[0]
        for earlier, later in itertools.pairwise(samples)
        if later[0] >= first and earlier[0] <= last
    ]
    return max(pauses, default=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Download and print JSON lines; exit status 0 when the body arrived whole."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.curl",
        description="Download over HTTP/3 with libcurl. SIGUSR1 ends its limits.",
    )
    parser.add_argument("url")
    parser.add_argument("--ca", type=Path, required=True, help="certificate to trust (PEM)")
    parser.add_argument("--rate", type=int, default=0, metavar="BYTES_PER_S")
    parser.add_argument("--hold-at", type=int, default=0, metavar="BYTES")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS")
    options = parser.parse_args(arguments)
    # For tests, which limit a download only until they have done their work in the middle.
    unlimited = Event()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: unlimited.set())
    outcome = download(
        options.url,
        ca_file=options.ca,
        max_bytes_per_s=options.rate,
        hold_at=options.hold_at,
        timeout_s=options.timeout,
        on_progress=_print_line,
        unlimited=unlimited,
    )
    # Python loses the rest of a long line, if a signal breaks off its writing.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _print_line(outcome)
    return 0 if outcome.ok else 1


class _Recorder:
    """Takes the body from curl: hash, count, and the time of every piece.

    It also keeps to the rate, by refusing a piece that comes too early. curl's own limit
    (MAX_RECV_SPEED_LARGE) reads a second's worth at once and is then silent for the rest of that
    second, which would bury every pause that a server causes.
    """

    def __init__(
        self,
        on_progress: Callable[[Progress], None] | None,
        max_bytes_per_s: int,
        hold_at: int,
        unlimited: Event,
    ) -> None:
        self.sha256 = hashlib.sha256()
        self.received_bytes = 0
        self.samples: list[tuple[int, int]] = []
        self.paused = False
        self.heard_ns = time.monotonic_ns()
        self._max_bytes_per_s = max_bytes_per_s
        self._hold_at = hold_at
        self._unlimited = unlimited
        self._on_progress = on_progress
        self._reported_ns = 0
        self._reported_bytes = 0
        self._pause_ns = 0

    def write(self, piece: bytes) -> int:
        self.heard_ns = now_ns = time.monotonic_ns()
        if self._early_ns(now_ns):
            self.paused = True
            self._report(now_ns)
            return pycurl.WRITEFUNC_PAUSE  # type: ignore[no-any-return]  # pycurl has no types
        self.received_bytes += len(piece)
        if self.samples:
            self._pause_ns = max(self._pause_ns, now_ns - self.samples[-1][0])
        self.samples.append((now_ns, self.received_bytes))
        self.sha256.update(piece)
        self._report(now_ns)
        return len(piece)

    def _report(self, now_ns: int) -> None:
        is_due = now_ns - self._reported_ns >= _PROGRESS_INTERVAL_NS
        if self._on_progress and is_due and self.received_bytes > self._reported_bytes:
            self._reported_ns = now_ns
            self._reported_bytes = self.received_bytes
            self._on_progress(Progress(now_ns, self.received_bytes, self._pause_ns))
            self._pause_ns = 0

    def early_s(self) -> float:
        """For how long no more of the body is to be taken, as far as that is known."""
        return min(self._early_ns(time.monotonic_ns()) / 1e9, _LOOK_S)

    def _early_ns(self, now_ns: int) -> int:
        if not self.samples or self._unlimited.is_set():
            return 0
        if self._hold_at and self.received_bytes >= self._hold_at:
            due_ns = self.samples[-1][0] + _TRICKLE_NS
        elif self._max_bytes_per_s:
            due_ns = (
                self.samples[0][0] + self.received_bytes * 1_000_000_000 // self._max_bytes_per_s
            )
        else:
            return 0
        return max(0, due_ns - now_ns)


def _perform(curl: pycurl.Curl, recorder: _Recorder, timeout_s: float) -> str:
    """Run the transfer to its end and return the error, or nothing."""
    multi = pycurl.CurlMulti()
    multi.add_handle(curl)
    try:
        while True:
            _, running = multi.perform()
            if not running:
                break
            if recorder.paused:
                # A paused transfer still answers its connection: the socket, and libcurl's timers,
                # wake us up early.
                early_s, timer_ms = recorder.early_s(), multi.timeout()
                multi.select(early_s if timer_ms < 0 else min(early_s, timer_ms / 1000))
                if not recorder.early_s():
                    recorder.paused = False
                    curl.pause(pycurl.PAUSE_CONT)
            elif time.monotonic_ns() - recorder.heard_ns > timeout_s * 1e9:
                # libcurl's own timeout is for the whole transfer, however slow it is to be.
                return f"curl error {pycurl.E_OPERATION_TIMEDOUT}: silent for {timeout_s:g} s"
            else:
                multi.select(_IDLE_S)
        _, _, failed = multi.info_read()
        return "".join(f"curl error {code}: {message}" for _, code, message in failed)
    finally:
        multi.remove_handle(curl)
        multi.close()


def _handle(url: str, ca_file: Path) -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    # 3ONLY: a fall-back to HTTP/2 over TCP would make a test pass for the wrong reason.
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.CAINFO, str(ca_file))
    curl.setopt(pycurl.SSL_VERIFYPEER, 1)
    curl.setopt(pycurl.SSL_VERIFYHOST, 2)
    curl.setopt(pycurl.PROXY, "")  # an environment's proxy does not speak UDP
    curl.setopt(pycurl.NOSIGNAL, 1)
    return curl


def _print_line(message: Progress | Outcome) -> None:
    sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
