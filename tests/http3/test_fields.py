"""Field sections, priorities and QPACK: properties, and a comparison with aioquic and qh3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aioquic.h3 import connection as aioquic_h3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quicbaton.http3 import fields as ours
from quicbaton.http3 import qpack
from quicbaton.http3.errors import (
    FieldSectionTooLargeError,
    MessageError,
    QpackDecompressionFailed,
)
from quicbaton.http3.priority import DEFAULT, Priority, parse_priority
from quicbaton.limits import MAX_COUNTED_SECTION_BYTES, MAX_FIELDS
from tests.http3.violations import CONNECT, GET, OK, SESSION, Fields

# --- priorities (RFC 9218) ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        # The RFC's examples: §4, §4.1, §4.2, §5, §8.
        (b"", (3, False)),
        (b"u=5, i", (5, True)),
        (b"u=0", (0, False)),
        (b"u=5", (5, False)),
        (b"i", (3, True)),
        (b"u=1, i", (1, True)),
        (b"u=1, i=?0", (1, False)),
        # §4: out of range, of another type, unknown: ignored.
        (b"u=8", (3, False)),
        (b"u=-1", (3, False)),
        (b"u=1.0, i", (3, True)),
        (b"u=low, i=1", (3, False)),
        (b"u=?1, i=?1", (3, True)),
        (b"x, u=2;y=1, z=(1 2);q, i;w", (2, True)),
        (b"u=(1 2)", (3, False)),
        # RFC 8941 §3.2: the last of two counts; §4.2: what is no dictionary is none at all.
        (b"u=1, u=2", (2, False)),
        (b"u=1, u=9", (3, False)),
        (b'note="a, u=0, i", u=6', (6, False)),
        (b'note="\\"", u=6', (6, False)),
        (b"data=:aGk=:, u=4", (4, False)),
        (b"u=1,\ti", (1, True)),
        (b" u=1 ", (1, False)),
        (b"u=1,", (3, False)),
        (b"u=1 i", (3, False)),
        (b"u=1, I", (3, False)),
        (b"u = 1", (3, False)),
        (b"u=1, \xff", (3, False)),
        (b"u=1" + b", i" * 100, (3, False)),  # longer than anything that means something
    ],
)
def test_a_priority_is_what_the_rfc_reads_in_it(value: bytes, priority: tuple[int, bool]) -> None:
    assert parse_priority(value) == priority


@given(st.integers(0, 7), st.booleans(), st.integers(0, 7), st.booleans())
def test_a_priority_is_the_same_there_and_back(
    urgency: int, incremental: bool, base_urgency: int, base_incremental: bool
) -> None:
    priority = Priority(urgency, incremental)
    assert parse_priority(priority.encode()) == priority
    base = Priority(base_urgency, base_incremental)
    assert parse_priority(b"", base) == parse_priority(b"?", base) == base
    assert parse_priority(b"u=%d, i=?%d" % priority, base) == priority


@given(st.binary(max_size=300))
def test_any_value_is_some_priority(value: bytes) -> None:
    urgency, incremental = parse_priority(value)
    assert 0 <= urgency <= 7
    assert incremental in (True, False)


# --- what is well-formed ------------------------------------------------------------------------

_NAMES = st.sampled_from(
    [
        *(b":method", b":scheme", b":authority", b":path", b":protocol", b":status", b":color"),
        *(b"host", b"te", b"connection", b"content-length", b"transfer-encoding", b"Upper"),
        *(b"a", b"cookie", b"x y", b"a:b", b"", b"\xff", b"priority"),
    ]
)
_VALUES = st.sampled_from(
    [
        *(b"GET", b"CONNECT", b"https", b"http", b"a.test", b"/", b"", b"200", b"103", b"101"),
        *(b"trailers", b"gzip", b"7", b"-7", b"7 ", b" 7", b"x\n", b"\0", b"websocket", b"u=1"),
    ]
)
_BEGINNINGS = st.sampled_from([GET, CONNECT, SESSION, OK, [], GET[:3]])
_SECTIONS = st.builds(
    lambda begin, more, dropped: [
        field for number, field in enumerate([*begin, *more]) if number != dropped
    ],
    _BEGINNINGS,
    st.lists(st.tuples(_NAMES, _VALUES), max_size=3),
    st.integers(0, 9),
)


def accepts(check: Callable[[Any], object], section: Fields) -> bool:
    try:
        check(section)
    except (MessageError, aioquic_h3.MessageError):
        return False
    return True


def stricter(section: Fields) -> bool:
    """Where ours refuses what aioquic's takes, for these reasons."""
    names = [name for name, _ in section]
    values = dict(section)
    method = values.get(b":method")
    return bool(
        # RFC 9114 §4.2: fields about a connection of HTTP/1, and te in what is no request.
        {b"connection", b"transfer-encoding"} & set(names)
        or b"te" in names
        # §10.3: a name has a character.
        or b"" in names
        # RFC 9110 §8.6: two lengths, or one that is no number.
        or b"content-length" in names
        # §4.3.1: host and authority are one, scheme and path are there; §4.4: CONNECT; RFC 8441
        # §4: `:protocol`.
        or b"host" in names
        or (method is not None and not {b":scheme", b":path"} <= set(names))
        or method == b"CONNECT"
        or b":protocol" in names
        # RFC 9110 §9.1, §15.
        or method in (b"", b"7 ")
        or (method is not None and not method.isalnum())
        or not b"100" <= values.get(b":status", b"200") <= b"999"
    )


def looser(section: Fields) -> bool:
    """Where ours takes what aioquic's refuses, for these reasons."""
    names = [name for name, _ in section]
    values = dict(section)
    # §4.3.1: a host stands for the authority; §4.4: CONNECT has neither scheme nor path.
    return b"host" in names or values.get(b":method") == b"CONNECT"


@pytest.mark.parametrize(
    "name",
    [
        "validate_request_headers",
        "validate_response_headers",
        "validate_trailers",
        "validate_push_promise_headers",
    ],
)
@settings(max_examples=300)
@given(section=_SECTIONS)
@example(section=GET)
@example(section=OK)
def test_sections_are_judged_as_aioquic_judges_them(name: str, section: Fields) -> None:
    we = accepts(getattr(ours, name), section)
    they = accepts(getattr(aioquic_h3, name), section)
    if we and not they:
        assert looser(section)
    if they and not we:
        assert stricter(section)


# --- QPACK --------------------------------------------------------------------------------------

_TEXT = st.binary(max_size=30).filter(lambda text: not {0, 10, 13} & set(text))
_FIELDS = st.lists(
    st.tuples(st.from_regex(rb"[a-z][a-z0-9-]{0,15}", fullmatch=True), _TEXT), max_size=40
)


@given(_FIELDS)
def test_fields_are_the_same_there_and_back(section: Fields) -> None:
    assert qpack.decode_fields(qpack.encode_fields(section)) == section


@given(_FIELDS, st.integers(0, 2))
def test_fields_are_counted_as_many_as_are_decoded(section: Fields, spare: int) -> None:
    """The count that goes ahead of the decoder refuses just what has too many fields."""
    block = qpack.encode_fields(section * 12)
    count = 12 * len(section)
    if count > MAX_FIELDS:
        with pytest.raises(FieldSectionTooLargeError):
            qpack._check_count(block)
    else:
        qpack._check_count(block)
    # Indexed lines of one byte, up to the limit and over it.
    room = MAX_FIELDS - count
    if room >= 0:
        qpack._check_count(block + b"\xd1" * room)
        with pytest.raises(FieldSectionTooLargeError):
            qpack._check_count(block + b"\xd1" * (room + 1 + spare))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_the_count_is_never_wrong_about_what_can_be_decoded(block: bytes) -> None:
    block = b"\0\0" + block
    try:
        fields = qpack.decode_fields(block)
    except (QpackDecompressionFailed, FieldSectionTooLargeError):
        return
    counted = _count(block)
    assert counted is None or counted == len(fields)


def _count(block: bytes) -> int | None:
    """How many fields `_check_count` sees: as many as may stand ahead of the last one it takes."""
    for room in range(MAX_FIELDS, -1, -1):
        try:
            qpack._check_count(block[:2] + b"\xd1" * room + block[2:])
        except FieldSectionTooLargeError:
            continue
        return MAX_FIELDS - room
    return None


def test_a_failed_section_leaves_nothing_in_the_decoder() -> None:
    good = qpack.encode_fields(GET)
    for bad in (b"", b"\x02\x00\x80", b"\0\0\xff", b"\x05\x00" + b"\x80" * 10, b"\0\0\x27"):
        with pytest.raises(QpackDecompressionFailed):
            qpack.decode_fields(bad)
        assert qpack.decode_fields(good) == GET


def test_a_section_that_is_counted_is_decoded_all_the_same() -> None:
    section = [*GET, (b"cookie", b"x" * 2 * MAX_COUNTED_SECTION_BYTES)]
    assert qpack.decode_fields(qpack.encode_fields(section)) == section


def test_a_default_priority_says_nothing() -> None:
    assert DEFAULT.encode() == b""
