"""Conditional requests (RFC 9110 §13): the client says which state it has, and is answered 304 or
412, or gets the content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import NamedTuple

from quicbaton.files.dates import parse_date


class Validators(NamedTuple):
    """What distinguishes one state of a representation from another."""

    #: Quoted and strong (§8.8.1): different for every state.
    etag: bytes
    #: The Last-Modified time, in whole seconds since 1970; None where the file has no such time.
    modified_s: int | None


class Verdict(Enum):
    """What the conditions of a GET or HEAD decide."""

    SEND = auto()
    NOT_MODIFIED = auto()  # 304
    FAILED = auto()  # 412


def evaluate(fields: Mapping[bytes, bytes], current: Validators) -> Verdict:
    """Evaluate the conditions of a GET or HEAD in the order of §13.2.2. Its step 5 is
    `takes_range`."""
    if_match = fields.get(b"if-match")
    if if_match is not None:
        if not _lists(if_match, current.etag, weakly=False):
            return Verdict.FAILED
    elif (
        # §13.1.4: ignored where there is no date to compare.
        current.modified_s is not None
        and (since := _date(fields, b"if-unmodified-since")) is not None
        and current.modified_s > since
    ):
        return Verdict.FAILED
    if_none_match = fields.get(b"if-none-match")
    if if_none_match is not None:
        if _lists(if_none_match, current.etag, weakly=True):
            return Verdict.NOT_MODIFIED
    elif (
        current.modified_s is not None
        and (since := _date(fields, b"if-modified-since")) is not None
        and current.modified_s <= since
    ):
        return Verdict.NOT_MODIFIED
    return Verdict.SEND


def takes_range(fields: Mapping[bytes, bytes], current: Validators) -> bool:
    """Whether If-Range (§13.1.5) lets the request's Range count: the client has a part of the very
    content that we would send the rest of. A date must be exactly the one that we sent."""
    value = fields.get(b"if-range")
    if value is None:
        return True
    value = value.strip()
    if value.startswith((b'"', b"W/")):
        # The strong comparison: a weak tag never fits.
        return value == current.etag
    return current.modified_s is not None and parse_date(value) == current.modified_s


def _lists(value: bytes, etag: bytes, *, weakly: bool) -> bool:
    """Whether a list of entity tags contains this one, by the weak or the strong comparison
    (§8.8.3.2). The list `*` contains every tag."""
    if value.strip() == b"*":
        return True
    return any(tag == etag and (weakly or not is_weak) for is_weak, tag in _tags(value))


def _tags(value: bytes) -> Iterator[tuple[bool, bytes]]:
    """(is weak, quoted tag) for each tag of the list, up to the first malformed one. A tag may
    contain commas."""
    rest = value.strip(b" \t,")
    while rest:
        is_weak = rest.startswith(b"W/")
        if is_weak:
            rest = rest[2:]
        end = rest.find(b'"', 1)
        if not rest.startswith(b'"') or end < 0:
            return
        yield is_weak, rest[: end + 1]
        rest = rest[end + 1 :].lstrip(b" \t")
        if rest and not rest.startswith(b","):
            return
        rest = rest.lstrip(b" \t,")


def _date(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    """The field's date. None, where the field is missing or no date, means that it is ignored."""
    value = fields.get(name)
    return None if value is None else parse_date(value)
