"""Extensible priorities (RFC 9218): the `priority` field and what it means.

A response has an urgency, 0 to 7, lower first, and is incremental, which is to say that it is of
use in pieces: incremental ones of one urgency share, others follow one another.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Priority(NamedTuple):
    """RFC 9218 §4."""

    urgency: int
    incremental: bool

    def encode(self) -> bytes:
        """The value of the `priority` field; what is default is left out (§4)."""
        parts = []
        if self.urgency != DEFAULT.urgency:
            parts.append(b"u=%d" % self.urgency)
        if self.incremental:
            parts.append(b"i")
        return b", ".join(parts)


#: §4.1, §4.2: what holds where nothing is said.
DEFAULT: Final = Priority(3, False)

#: Members of a Structured Fields dictionary (RFC 8941 §3.2) as far as we understand them: `u` with
#: an integer, `i` with a boolean, each possibly with parameters, which mean nothing.
_URGENCY: Final = re.compile(rb"u=([0-7])(?:;.*)?").fullmatch
_INCREMENTAL: Final = re.compile(rb"i(?:=\?([01]))?(?:;.*)?").fullmatch


def parse_priority(value: bytes, base: Priority = DEFAULT) -> Priority:
    """The priority that a field's value says; what it does not say is as in `base`.

    §4: parameters that are unknown, out of range or of another type are ignored, and so is all of
    a value that is no dictionary at all. The last of two of one name counts (RFC 8941 §3.2).
    """
    urgency, incremental = base
    for member in value.split(b","):
        text = member.strip(b" \t")
        if (match := _URGENCY(text)) is not None:
            urgency = int(match[1])
        elif (match := _INCREMENTAL(text)) is not None:
            incremental = match[1] != b"0"
    return Priority(urgency, incremental)
