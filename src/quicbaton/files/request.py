"""The part of a request's header section that decides the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: RFC 9110 §5.3: fields that may come in several lines, which are joined into one list.
_LISTS = frozenset((b"accept-encoding", b"if-match", b"if-none-match"))


class Request(NamedTuple):
    """A request without its body."""

    method: bytes
    target: str
    fields: dict[bytes, bytes]

    @property
    def is_head(self) -> bool:
        return self.method == b"HEAD"


def parse_request(headers: Iterable[tuple[bytes, bytes]]) -> Request | None:
    """The request of a header section; None for trailers, which have no method."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in fields:
            fields[name] = value
        elif name in _LISTS:
            fields[name] += b", " + value
        else:
            # A second Range or date is a mistake: neither is used.
            fields[name] = b""
    method = fields.get(b":method")
    if method is None:
        return None
    return Request(method, fields.get(b":path", b"").decode("latin-1"), fields)
