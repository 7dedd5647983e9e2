"""The reason why a request gets no file."""

from __future__ import annotations


class RefusedRequestError(Exception):
    """The request cannot be granted. `status` is the HTTP status that says so, and `fields` are
    header fields that go with it."""

    def __init__(self, status: int, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.fields = fields
