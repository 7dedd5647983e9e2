"""Many libcurl connections from one process, each with a transfer at a time.

    python -m bench.curl_crowd CA_FILE

Lines on stdin, each answered by one on stdout, as JSON: `open PORT COUNT` makes connections with a
small request each; `download PORT COUNT BYTES` has so many of them take the first BYTES of the body
at once; `upload PORT COUNT BYTES` has them send those; `small PORT COUNT` makes that many small
requests over all of them in turn; `close` ends them. Events come by epoll and libcurl's
`socket_action`, so a turn costs what is ready, not what is open.
"""

import contextlib
import hashlib
import io
import resource
import selectors
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pycurl

from bench.servers.application import SMALL_BYTES, make_body

_TIMEOUT_S = 120
#: Handshakes at once.
_OPENED_AT_ONCE = 32
_MOST_CONNECTIONS = 4096


class Outcome(msgspec.Struct):
    """The result. `finish_s` has the time at which each transfer ended, ascending; `sha256` is that
    of every body, empty if they differ."""

    error: str = ""
    seconds: float = 0.0
    received_bytes: int = 0
    connections: int = 0
    finish_s: list[float] = []
    sha256: str = ""


class _Crowd:
    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file
        self._selector = selectors.EpollSelector()
        self._due_s: float | None = None
        self._idle: list[pycurl.Curl] = []
        self._bodies: dict[pycurl.Curl, list[bytes]] = {}
        self._multi = self._new_multi()

    def open(self, port: int, count: int) -> Outcome:
        """Make so many connections."""
        self._idle = []
        outcome = Outcome()
        while len(self._idle) < count:
            begun = [self._handle() for _ in range(min(_OPENED_AT_ONCE, count - len(self._idle)))]
            outcome = self._transfer(port, "/small", len(begun), begun)
            for handle in begun:
                handle.setopt(pycurl.FRESH_CONNECT, 0)
            self._idle += begun
        return outcome

    def download(self, port: int, count: int, size: int) -> Outcome:
        """Take `size` bytes over each of so many connections at once."""
        return self._transfer(port, f"/first/{size}", count, self._idle)

    def upload(self, port: int, count: int, size: int) -> Outcome:
        """Send the body's first `size` bytes, a multiple of four, over each of so many connections
        at once."""
        body = make_body(size)
        for handle in self._idle[:count]:
            handle.setopt(pycurl.POST, 1)
            handle.setopt(pycurl.POSTFIELDSIZE_LARGE, size)
            handle.setopt(pycurl.READFUNCTION, io.BytesIO(body).read)
            handle.setopt(pycurl.HTTPHEADER, ["Expect:"])
            handle.setopt(pycurl.UPLOAD_BUFFERSIZE, 512 * 1024)
        return self._transfer(port, "/upload", count, self._idle)

    def small(self, port: int, count: int) -> Outcome:
        """Make so many requests, one at a time on each connection."""
        outcome = self._transfer(port, "/small", count, self._idle)
        if outcome.received_bytes != count * SMALL_BYTES:
            outcome.error = f"{outcome.received_bytes} bytes instead of {count * SMALL_BYTES}"
        return outcome

    def close(self) -> Outcome:
        """End all connections."""
        for handle in self._idle:
            handle.close()
        self._multi.close()
        self._idle = []
        self._multi = self._new_multi()
        return Outcome()

    # --- helpers, in reading order --------------------------------------------------------------

    def _transfer(self, port: int, path: str, count: int, handles: list[pycurl.Curl]) -> Outcome:
        digests = set()
        finished: list[float] = []
        outcome = Outcome()
        begun = 0
        started = time.perf_counter()
        while begun < min(count, len(handles)):
            self._begin(handles[begun], port, path)
            begun += 1
        for handle in self._done(count):
            finished.append(time.perf_counter() - started)
            outcome.connections += handle.getinfo(pycurl.NUM_CONNECTS)
            status = handle.getinfo(pycurl.RESPONSE_CODE)
            if status != 200:
                outcome.error = f"status {status} for {path}"
            pieces = self._bodies.pop(handle)
            outcome.received_bytes += sum(map(len, pieces))
            # A hash of everything would cost more than the download: of every hundredth transfer.
            if len(finished) % 100 == 1:
                digests.add(hashlib.sha256(b"".join(pieces)).hexdigest())
            if begun < count:
                self._begin(handle, port, path)
                begun += 1
        outcome.seconds = finished[-1]
        outcome.finish_s = [round(one, 4) for one in finished]
        outcome.sha256 = digests.pop() if len(digests) == 1 else ""
        return outcome

    def _begin(self, handle: pycurl.Curl, port: int, path: str) -> None:
        pieces = self._bodies[handle] = []
        handle.setopt(pycurl.URL, f"https://localhost:{port}{path}")
        handle.setopt(pycurl.RESOLVE, [f"localhost:{port}:127.0.0.1"])
        handle.setopt(pycurl.WRITEFUNCTION, pieces.append)
        self._multi.add_handle(handle)

    def _done(self, count: int) -> Iterator[pycurl.Curl]:
        """The handles of transfers that end, `count` in all; each may begin another."""
        left = count
        while left:
            wait_s = 1.0 if self._due_s is None else max(0.0, self._due_s - time.monotonic())
            ready = self._selector.select(wait_s)
            for key, events in ready:
                mask = pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0
                mask |= pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
                self._multi.socket_action(key.fd, mask)
            if self._due_s is not None and self._due_s <= time.monotonic():
                self._due_s = None
                self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            more = 1
            while more:
                more, ended, failed = self._multi.info_read()
                if failed:
                    raise RuntimeError(str(failed[0][2]))
                for handle in ended:
                    self._multi.remove_handle(handle)
                    left -= 1
                    yield handle

    def _new_multi(self) -> pycurl.CurlMulti:
        multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_PIPELINING, 0)
        multi.setopt(pycurl.M_MAXCONNECTS, _MOST_CONNECTIONS)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._wake)
        return multi

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)
        if what == pycurl.POLL_REMOVE:
            return
        events = selectors.EVENT_READ if what & pycurl.POLL_IN else 0
        events |= selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        if events:
            self._selector.register(descriptor, events)

    def _wake(self, timeout_ms: int) -> None:
        self._due_s = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1e3

    def _handle(self) -> pycurl.Curl:
        curl = pycurl.Curl()
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
        curl.setopt(pycurl.CAINFO, self._ca_file)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.TIMEOUT, _TIMEOUT_S)
        curl.setopt(pycurl.FRESH_CONNECT, 1)
        return curl


def main() -> None:
    """Answer every line of stdin with a line on stdout."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    crowd = _Crowd(sys.argv[1])
    for line in sys.stdin:
        operation, *numbers = line.split()
        try:
            outcome = getattr(crowd, operation)(*map(int, numbers))
        except (pycurl.error, RuntimeError) as failure:
            outcome = Outcome(error=str(failure))
        print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
