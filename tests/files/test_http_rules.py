"""HTTP's own rules for what a client gets, without a file: RFC 9110 §5.6.7, §12.5.3, §13, §14."""

from __future__ import annotations

import pytest

from quicbaton.files.conditions import Validators, Verdict, evaluate, takes_range
from quicbaton.files.content_type import SAMPLE_BYTES, content_type, with_charset
from quicbaton.files.dates import http_date, parse_date
from quicbaton.files.encodings import ENCODINGS, choose
from quicbaton.files.ranges import wanted_range
from quicbaton.files.refusal import RefusedRequestError
from quicbaton.files.request import parse_request

# --- dates ------------------------------------------------------------------------------------

_EXAMPLE = 784_111_777  # of §5.6.7


@pytest.mark.parametrize(
    "text",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
    ],
)
def test_all_three_forms_of_a_date_are_read(text: bytes) -> None:
    assert parse_date(text) == _EXAMPLE


def test_a_date_is_written_in_the_preferred_form() -> None:
    assert http_date(_EXAMPLE) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "text", [b"", b"0", b"yesterday", b"\xff", b"Sun, 99 Nov 99999 99:99:99 GMT", b"1" * 10_000]
)
def test_what_is_no_date_is_none(text: bytes) -> None:
    assert parse_date(text) is None


# --- conditions -------------------------------------------------------------------------------

_TAG = b'"a,b"'
_NOW = Validators(_TAG, _EXAMPLE)
_BEFORE, _AT, _AFTER = (http_date(_EXAMPLE + by) for by in (-1, 0, 1))
_SEND, _304, _412 = Verdict.SEND, Verdict.NOT_MODIFIED, Verdict.FAILED


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, _SEND),
        # §13.1.1: the strong comparison.
        ({b"if-match": _TAG}, _SEND),
        ({b"if-match": b'"x", , "a,b"'}, _SEND),
        ({b"if-match": b"*"}, _SEND),
        ({b"if-match": b'"x"'}, _412),
        ({b"if-match": b'W/"a,b"'}, _412),
        ({b"if-match": b"garbage"}, _412),
        # §13.1.2: the weak one.
        ({b"if-none-match": _TAG}, _304),
        ({b"if-none-match": b'W/"a,b"'}, _304),
        ({b"if-none-match": b'"x" , W/"a,b"'}, _304),
        ({b"if-none-match": b"*"}, _304),
        ({b"if-none-match": b'"x"'}, _SEND),
        ({b"if-none-match": b'"a'}, _SEND),
        # §13.1.3, §13.1.4.
        ({b"if-modified-since": _BEFORE}, _SEND),
        ({b"if-modified-since": _AT}, _304),
        ({b"if-modified-since": _AFTER}, _304),
        ({b"if-modified-since": b"never"}, _SEND),
        ({b"if-unmodified-since": _BEFORE}, _412),
        ({b"if-unmodified-since": _AT}, _SEND),
        ({b"if-unmodified-since": b"never"}, _SEND),
        # §13.2.2: a tag is asked before a date, and what must match before what must not.
        ({b"if-match": _TAG, b"if-unmodified-since": _BEFORE}, _SEND),
        ({b"if-none-match": b'"x"', b"if-modified-since": _AFTER}, _SEND),
        ({b"if-match": b'"x"', b"if-none-match": _TAG}, _412),
        ({b"if-match": _TAG, b"if-none-match": _TAG}, _304),
        ({b"if-unmodified-since": _AFTER, b"if-modified-since": _AFTER}, _304),
    ],
)
def test_conditions_are_judged_in_their_order(fields: dict[bytes, bytes], verdict: Verdict) -> None:
    assert evaluate(fields, _NOW) is verdict


def test_without_a_date_conditions_on_dates_count_for_nothing() -> None:
    dateless = Validators(_TAG, None)
    assert evaluate({b"if-modified-since": _AFTER}, dateless) is _SEND
    assert evaluate({b"if-unmodified-since": _BEFORE}, dateless) is _SEND
    assert not takes_range({b"if-range": _AT}, dateless)


@pytest.mark.parametrize(
    ("value", "takes"),
    [
        (None, True),
        (_TAG, True),
        (b'"x"', False),
        (b'W/"a,b"', False),
        (_AT, True),
        (_AFTER, False),
        (_BEFORE, False),
        (b"garbage", False),
        (b"", False),
    ],
)
def test_a_range_counts_only_for_the_very_same_content(value: bytes | None, takes: bool) -> None:
    fields = {} if value is None else {b"if-range": value}
    assert takes_range(fields, _NOW) is takes


# --- ranges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"bytes=0-0", (0, 1)),
        (b"bytes=10-19", (10, 20)),
        (b"bytes=0-", (0, 100)),
        (b"bytes=90-1000", (90, 100)),
        (b"bytes=-5", (95, 100)),
        (b"bytes=-500", (0, 100)),
        (b"Bytes= 7-8 ", (7, 9)),
        (b"bytes=00-" + b"9" * 5000, (0, 100)),
        # Ignored: §14.2 lets us, §14.1.1 demands it of what is invalid.
        (None, None),
        (b"bytes=5-4", None),
        (b"bytes=1-2,4-5", None),
        (b"lines=1-2", None),
        (b"bytes", None),
        (b"bytes=-", None),
        (b"bytes=x-", None),
        (b"bytes=1-2-3", None),
        (b"bytes=+1-2", None),
        (b"bytes=\xb2-", None),
    ],
)
def test_one_range_of_bytes_is_understood(
    value: bytes | None, wanted: tuple[int, int] | None
) -> None:
    assert wanted_range(value, 100) == wanted


@pytest.mark.parametrize("value", [b"bytes=100-", b"bytes=100-200", b"bytes=-0"])
def test_a_range_of_nothing_is_refused_with_the_length(value: bytes) -> None:
    with pytest.raises(RefusedRequestError) as caught:
        wanted_range(value, 100)
    assert caught.value.status == 416
    assert caught.value.fields == ((b"content-range", b"bytes */100"),)


def test_of_an_empty_file_there_is_no_range() -> None:
    assert wanted_range(b"bytes=0-", 0) is None
    assert wanted_range(b"bytes=-5", 0) is None


# --- encodings --------------------------------------------------------------------------------

_BR, _ZSTD, _GZIP = ENCODINGS


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (None, None),
        (b"", None),
        (b"identity", None),
        (b"deflate", None),
        (b"gzip, deflate, br, zstd", _BR),
        (b"gzip, zstd", _ZSTD),
        (b"GZIP", _GZIP),
        (b"x-gzip", _GZIP),
        (b"*", _BR),
        (b"br;q=0, *", _ZSTD),
        (b"br;q=0.5, gzip;q=0.8", _GZIP),
        (b"br ; q=0.3 , gzip;q=0.3", _BR),
        (b"gzip;q=0.001", _GZIP),
        (b"gzip;q=0", None),
        (b"identity;q=0.9, gzip;q=0.8", None),
        (b"identity;q=0.5, gzip;q=0.5", _GZIP),
        (b"identity;q=0, gzip;q=0.1", _GZIP),
        (b"*;q=0, gzip", _GZIP),
        (b"*;q=0, identity;q=1", None),
        (b"gzip;q=2", None),
        (b"gzip;q=x, br;level=5", None),
        (b",,;q=1,gzip", _GZIP),
    ],
)
def test_weights_decide_what_encoding_is_sent(accepted: bytes | None, chosen: object) -> None:
    assert choose(accepted, ENCODINGS) is chosen


@pytest.mark.parametrize("accepted", [b"identity;q=0", b"*;q=0", b"br, identity;q=0.0"])
def test_a_client_that_accepts_nothing_that_is_there_is_refused(accepted: bytes) -> None:
    with pytest.raises(RefusedRequestError) as caught:
        choose(accepted, [])
    assert caught.value.status == 406


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html"),
        ("a.JS", "text/javascript"),
        ("a.tar.gz", "application/gzip"),
        ("a.svgz", "application/octet-stream"),
        ("a.iso", "application/octet-stream"),
        ("Makefile", "application/octet-stream"),
        ("a.png", "image/png"),
    ],
)
def test_a_name_tells_the_type(name: str, kind: str) -> None:
    if name == "a.iso":
        assert content_type(name).startswith("application/")
    else:
        assert content_type(name) == kind


def test_a_text_is_said_to_be_utf8_only_if_it_is() -> None:
    said = "text/plain; charset=utf-8"
    assert with_charset("text/plain", b"") == said
    assert with_charset("text/plain", "grün".encode()) == said
    assert with_charset("text/plain", "grün".encode("latin-1")) == "text/plain"
    assert with_charset("text/plain", "a".encode("utf-16")) == "text/plain"
    # A character that the sample's end cuts in two is none.
    cut = b"a" * (SAMPLE_BYTES - 1) + "ü".encode()[:1]
    assert with_charset("text/plain", cut) == said
    assert with_charset("text/plain", b"ab" + "ü".encode()[:1]) == "text/plain"


# --- requests ---------------------------------------------------------------------------------


def test_lists_are_joined_and_repeated_single_values_count_for_nothing() -> None:
    request = parse_request(
        [
            (b":method", b"GET"),
            (b":path", b"/a"),
            (b"if-none-match", b'"a"'),
            (b"if-none-match", b'"b"'),
            (b"range", b"bytes=0-1"),
            (b"range", b"bytes=2-3"),
        ]
    )
    assert request is not None
    assert request.fields[b"if-none-match"] == b'"a", "b"'
    assert request.fields[b"range"] == b""
    assert parse_request([(b"trailer", b"x")]) is None
