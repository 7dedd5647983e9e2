"""Range (RFC 9110 §14): the bytes of a representation that a request wants."""

from __future__ import annotations

from typing import Final, NamedTuple

from quicbaton.files.refusal import RefusedRequestError

#: Digits of a position that are parsed: no file is that long, and Python's `int` has a limit.
_MAX_DIGITS: Final = 18


class ByteRange(NamedTuple):
    """Bytes `start` to `end`, which is one past the last."""

    start: int
    end: int

    def content_range(self, size: int) -> bytes:
        """The value of Content-Range in a 206 response."""
        return b"bytes %d-%d/%d" % (self.start, self.end - 1, size)


def wanted_range(value: bytes | None, size: int) -> ByteRange | None:
    """The bytes that a Range field asks for; None for all of them.

    A malformed field, one in another unit and one with several ranges are ignored, as §14.2 allows.
    Over HTTP/3, where requests are cheap, a client has no need for several ranges in one answer.

    Raises RefusedRequestError (416) when no byte of the range exists.
    """
    unit, equals, text = (value or b"").partition(b"=")
    first, dash, last = text.strip(b" \t").partition(b"-")
    if unit.strip().lower() != b"bytes" or not equals or not dash or not size:
        # An empty file has no range to name: the answer is the file.
        return None
    if not (first + last).isdigit():
        return None
    if not first:
        start, end = max(0, size - _position(last)), size
    else:
        start, end = _position(first), min(size, _position(last) + 1 if last else size)
        if last and _position(last) < start:
            return None  # §14.1.1: invalid, not unsatisfiable
    if start >= size:
        raise RefusedRequestError(416, ((b"content-range", b"bytes */%d" % size),))
    return ByteRange(start, end)


def _position(digits: bytes) -> int:
    stripped = digits.lstrip(b"0")
    return int(stripped or b"0") if len(stripped) <= _MAX_DIGITS else 10**_MAX_DIGITS
