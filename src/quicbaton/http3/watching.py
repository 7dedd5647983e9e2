"""An object that is told of a server's requests and answers, for an access log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class RequestWatch(Protocol):
    """Told what passes, after it was found in order. Nothing is told of requests that another
    process has received."""

    def on_request(self, stream_id: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """A request's header section has come."""

    def on_fields(
        self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], *, ended: bool
    ) -> None:
        """A header section, or trailers, were sent."""

    def on_content(self, stream_id: int, size: int, *, ended: bool) -> None:
        """A piece of content of so many bytes was sent."""

    def on_gone(self, stream_id: int) -> None:
        """The client has broken the request off, or wants no more of the answer."""
