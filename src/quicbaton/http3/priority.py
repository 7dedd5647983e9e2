"""Extensible priorities (RFC 9218): the `priority` field and its meaning.

A response has an urgency, 0 to 7, lower first. It may be incremental: of use in pieces. Incremental
responses of one urgency share the bandwidth, others follow one another.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from quicbaton.limits import MAX_PRIORITY_UPDATE_BYTES


class Priority(NamedTuple):
    """RFC 9218 §4."""

    urgency: int
    incremental: bool

    def encode(self) -> bytes:
        """The value of the `priority` field. Members with their default value are left out (§4)."""
        parts = []
        if self.urgency != DEFAULT.urgency:
            parts.append(b"u=%d" % self.urgency)
        if self.incremental:
            parts.append(b"i")
        return b", ".join(parts)


#: The defaults (§4.1, §4.2).
DEFAULT: Final = Priority(3, False)

#: One member of a Structured Fields dictionary (RFC 8941 §3.2): its key, its value if it has one,
#: and parameters, which are ignored here.
_KEY: Final = rb"[a-z*][a-z0-9_\-.*]*"
_ITEM: Final = (
    rb"(?:-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}|\?[01]|:[A-Za-z0-9+/=]*:"
    rb'|"(?:[ !#-\[\]-~]|\\["\\])*"|[A-Za-z*][!#$%&\'*+\-.^_`|~0-9A-Za-z:/]*)'
)
_PARAMETERS: Final = rb"(?:; *%b(?:=%b)?)*" % (_KEY, _ITEM)
_LIST: Final = rb"\( *(?:%b%b(?: +|(?=\))))*\)" % (_ITEM, _PARAMETERS)
_MEMBER: Final = re.compile(rb"(%b)(?:=(%b|%b))?%b" % (_KEY, _ITEM, _LIST, _PARAMETERS)).match
_COMMA: Final = re.compile(rb"[ \t]*,[ \t]*").match
_URGENCY: Final = re.compile(rb"[0-7]").fullmatch
_INCREMENTAL: Final[dict[bytes | None, bool]] = {None: True, b"?1": True, b"?0": False}


def parse_priority(value: bytes, base: Priority = DEFAULT) -> Priority:
    """The priority in a field's value. Members that it lacks are as in `base`.

    §4: parameters that are unknown, out of range or of another type are ignored. So is a value that
    is no dictionary, or longer than any that means something. Of two members with one name the last
    counts (RFC 8941 §3.2).
    """
    if len(value) > MAX_PRIORITY_UPDATE_BYTES:
        return base
    members = _members(value.strip(b" "))
    urgency = members.get(b"u")
    return Priority(
        base.urgency if urgency is None or _URGENCY(urgency) is None else int(urgency),
        _INCREMENTAL.get(members[b"i"], base.incremental) if b"i" in members else base.incremental,
    )


def _members(value: bytes) -> dict[bytes, bytes | None]:
    """A dictionary's values as they are written, None where the key stands alone. Empty for a value
    that is no dictionary."""
    members: dict[bytes, bytes | None] = {}
    at = 0
    while (member := _MEMBER(value, at)) is not None:
        members[member[1]] = member[2]
        at = member.end()
        if at == len(value):
            return members
        comma = _COMMA(value, at)
        if comma is None:
            break
        at = comma.end()
    return {}
