"""The access log: a line for each request, written when its program has ended.

The record's arguments are those of uvicorn's, so that formatters for it fit: client, method, path,
HTTP version, status. Beside them the record has `sent_bytes` (of the body; of a file, its promised
length), `duration_ms` and `connection`, the name that `quicbaton ps` shows.
"""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import quote

from quicbaton.asgi.scope import Scope

_ACCESS: Final = logging.getLogger("quicbaton.access")


def is_on() -> bool:
    """Whether the log has a reader: without one its lines need not be put together."""
    return _ACCESS.isEnabledFor(logging.INFO)


def write(scope: Scope, status: int, *, sent_bytes: int, seconds: float, connection: str) -> None:
    """Write one request's line. Status 0 means that no response was begun."""
    client = scope["client"]
    query = scope["query_string"]
    path = quote(scope["path"]) + (f"?{query.decode('latin-1')}" if query else "")
    _ACCESS.info(
        '%s - "%s %s HTTP/%s" %d',
        f"{client[0]}:{client[1]}" if client else "",
        scope.get("method", scope["type"].upper()),
        path,
        scope["http_version"],
        status,
        extra={
            "sent_bytes": sent_bytes,
            "duration_ms": round(seconds * 1000, 3),
            "connection": connection,
        },
    )
