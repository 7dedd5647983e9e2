"""The access log: a line for each request, written when its answer is made: when a program has
ended, or, of a file, when its header section is sent.

The record's arguments are those of uvicorn's, so that formatters for it fit: client, method, path,
HTTP version, status. Beside them the record has `sent_bytes` (of the body; of a file, its promised
length), `duration_ms` and `connection`, the name that `quicbaton ps` shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from quicbaton.asyncio.requests import RequestCount
from quicbaton.limits import MAX_AWAITED_ANSWERS
from quicbaton.transport.state import Address

#: Characters of a request's target that a log shows as they are: RFC 3986's, and what is encoded.
_TARGET: Final = "%/:?#[]@!$&'()*+,;="
_ACCESS: Final = logging.getLogger("quicbaton.access")


def is_on() -> bool:
    """Whether the log has a reader: without one its lines need not be put together."""
    return _ACCESS.isEnabledFor(logging.INFO)


def shown_target(target: str) -> str:
    """A request's target without characters that could end a line."""
    return quote(target, safe=_TARGET)


def shown_client(address: Address) -> tuple[str, int] | None:
    """A client's address and port."""
    return (str(address[0]).removeprefix("::ffff:"), int(address[1])) if address else None


def write(
    method: str,
    path: str,
    status: int,
    *,
    client: tuple[str, int] | None,
    http_version: str,
    sent_bytes: int,
    seconds: float,
    connection: str,
) -> None:
    """Write one request's line. `path` is as in the request, percent-encoded, with its query.
    Status 0 means that no response was begun."""
    _ACCESS.info(
        '%s - "%s %s HTTP/%s" %d',
        f"{client[0]}:{client[1]}" if client else "",
        method,
        path,
        http_version,
        status,
        extra={
            "sent_bytes": sent_bytes,
            "duration_ms": round(seconds * 1000, 3),
            "connection": connection,
        },
    )


class _Awaited:
    """A request without its whole answer."""

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path
        self.begun_s = monotonic()
        self.status = 0
        self.sent_bytes = 0


class WatchedRequests:
    """Counts the requests of one connection, and writes their lines when they are answered, for a
    program that does neither itself. `quic()` is the connection. If it moves before an answer has
    ended, that request is counted and has no line."""

    def __init__(self, quic: Callable[[], Any], count: RequestCount) -> None:
        self._quic = quic
        self._count = count
        self._awaited: dict[int, _Awaited] = {}

    def on_request(self, stream_id: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        named = dict(fields)
        self._count.total += 1
        target = named.get(b":path", b"").decode("latin-1")
        method = named[b":method"].decode("latin-1")
        self._awaited[stream_id] = _Awaited(method, shown_target(target))
        if len(self._awaited) > MAX_AWAITED_ANSWERS:
            self._end(next(iter(self._awaited)))

    def on_fields(
        self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], *, ended: bool
    ) -> None:
        awaited = self._awaited.get(stream_id)
        name, value = next(iter(fields), (b"", b""))
        if awaited is not None and name == b":status" and value >= b"200":
            awaited.status = int(value)
        if ended:
            self._end(stream_id)

    def on_content(self, stream_id: int, size: int, *, ended: bool) -> None:
        awaited = self._awaited.get(stream_id)
        if awaited is not None:
            awaited.sent_bytes += size
            if ended:
                self._end(stream_id)

    def on_gone(self, stream_id: int) -> None:
        self._end(stream_id)

    def _end(self, stream_id: int) -> None:
        awaited = self._awaited.pop(stream_id, None)
        if awaited is None:
            return
        self._count.answered["3", awaited.status] += 1
        if is_on():
            quic = self._quic()
            write(
                awaited.method,
                awaited.path,
                awaited.status,
                client=shown_client(quic.peer_address),
                http_version="3",
                sent_bytes=awaited.sent_bytes,
                seconds=monotonic() - awaited.begun_s,
                connection=quic.name.hex(),
            )
