"""The access log: a line for each request, written when its answer is made: when a program has
ended, or, of a file, when its header section is sent.

The record's arguments are those of uvicorn's, so that formatters for it fit: client, method, path,
HTTP version, status. Beside them the record has `sent_bytes` (of the body; of a file, its promised
length), `duration_ms` and `connection`, the name that `quicbaton ps` shows.
"""

from __future__ import annotations

import logging
from typing import Final

_ACCESS: Final = logging.getLogger("quicbaton.access")


def is_on() -> bool:
    """Whether the log has a reader: without one its lines need not be put together."""
    return _ACCESS.isEnabledFor(logging.INFO)


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
