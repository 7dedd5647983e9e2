"""Field sections that a connection repeats, remembered with their meaning.

A client that asks for the same thing again sends the same bytes again, since there is no dynamic
table; a program's answers repeat, too. To decode and check a section takes some 10 µs, to find it
0.3.

A section holds secrets: cookies, authorization, the tokens in paths. So each connection remembers
its own. What one has sent makes nothing faster for another, from which nobody can learn anything,
and pushes nothing out that another one has gained. Nothing of it moves or sleeps: it can be made
again.

Most sections come once. A section is remembered when it comes for the second time, as far as one
bit tells; until then it costs the connection nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from quicbaton import limits
from quicbaton.http3 import qpack
from quicbaton.http3.fields import Fields, size_of
from quicbaton.http3.qpack import DecodedRequest, EncodedResponse

#: Bits of which the first appearance of a section sets one. When half of them are set, too many
#: sections seem to come again: all are cleared.
_MARKS: Final = 64
#: What a section takes beside its fields, and a field beside its bytes and the 32 of `size_of`.
_SECTION_BYTES: Final = 500
_FIELD_BYTES: Final = 110
#: The first byte of a stream that begins with HEADERS, and of a section without the dynamic table.
_HEADERS: Final = b"\x01"
_NO_INSERTS: Final = b"\0"
#: Nothing is ever put into these.
_NO_REQUESTS: Final[dict[bytes, DecodedRequest]] = {}
_NO_RESPONSES: Final[dict[tuple[tuple[bytes, bytes], ...], EncodedResponse]] = {}


class KnownSections:
    """The sections of one connection that come again."""

    __slots__ = ("_marks", "_requests", "_responses", "_room_bytes")

    def __init__(self) -> None:
        # Dicts of its own come with the first section: most connections never have any.
        self._requests = _NO_REQUESTS
        self._responses = _NO_RESPONSES
        self._room_bytes = 0
        self._marks = 0

    def whole_request(self, stream: bytes) -> DecodedRequest | None:
        """As `qpack.whole_request`."""
        # A known section is no stream, though its bytes might come as one: see `request`.
        known = self._requests.get(stream) if stream[:1] == _HEADERS else None
        if known is None:
            known = qpack.whole_request(stream)
            if known is not None:
                self._note_request(stream, known)
        return known

    def request(self, block: bytes) -> DecodedRequest:
        """As `qpack.decode_request`. No encoded section is a whole stream, too: it begins with 0,
        and a stream with the type of HEADERS."""
        known = self._requests.get(block) if block[:1] == _NO_INSERTS else None
        if known is None:
            known = qpack.decode_request(block)
            self._note_request(block, known)
        return known

    def response(self, fields: Fields) -> EncodedResponse:
        """As `qpack.encode_response`."""
        key = tuple(fields)
        known = self._responses.get(key)
        if known is None:
            known = qpack.encode_response(fields)
            size = known.size + len(known.frame)
            if self._comes_again(key) and self._make_room(size, len(key)):
                self._responses[key] = known
        return known

    # --- helpers --------------------------------------------------------------------------------

    def _note_request(self, key: bytes, request: DecodedRequest) -> None:
        if self._comes_again(key):
            fields = request.fields
            if self._make_room(size_of(fields) + len(key), len(fields)):
                self._requests[key] = request

    def _comes_again(self, key: Hashable) -> bool:
        """Whether a section has come before, or, rarely, another one with the same mark."""
        mark = 1 << (hash(key) & _MARKS - 1)
        if self._marks & mark:
            return True
        self._marks = mark | (self._marks if self._marks.bit_count() < _MARKS // 2 else 0)
        return False

    def _make_room(self, size: int, fields: int) -> bool:
        """Take the room that so many bytes in so many fields need; False for too many."""
        cost = _SECTION_BYTES + _FIELD_BYTES * fields + size
        if cost > limits.REMEMBERED_SECTIONS_BYTES:
            return False
        if cost > self._room_bytes:
            # All are forgotten: frequent ones come back at once.
            self._requests = {}
            self._responses = {}
            self._room_bytes = limits.REMEMBERED_SECTIONS_BYTES
        self._room_bytes -= cost
        return True
