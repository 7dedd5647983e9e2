"""Why a request gets no file."""

from __future__ import annotations


class RefusedRequestError(Exception):
    """The request cannot be answered with what it asks for; `status` is the HTTP status that says
    so, `fields` are header fields that go with it."""

    def __init__(self, status: int, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.fields = fields
