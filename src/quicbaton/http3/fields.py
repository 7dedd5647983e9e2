"""The rules for well-formed field sections (RFC 9114 §4.2, §4.3), and the fields that HTTP/3
reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from quicbaton.http3.errors import MessageError
from quicbaton.http3.priority import DEFAULT, Priority, parse_priority
from quicbaton.limits import FIELD_OVERHEAD_BYTES

Fields = Sequence[tuple[bytes, bytes]]

#: RFC 9110 §5.1: a token; RFC 9114 §4.2: in lower case.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
#: RFC 9110 §9.1: a token, in any case.
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
#: RFC 9114 §10.3, RFC 9110 §5.5: characters that could end the field elsewhere.
_BAD_BYTES: Final = b"\0\r\n"
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]").search
_WHITE: Final = b" \t"
#: Removes these and others, or returns the same object.
_STRIP: Final = bytes.strip
#: RFC 9114 §4.2: fields about a connection of HTTP/1.
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
#: Names of most fields, which are well-formed and about which HTTP/3 has no rule. To find one here
#: costs a tenth of checking it.
_USUAL: Final = frozenset(
    b"""accept accept-encoding accept-language accept-ranges access-control-allow-credentials
    access-control-allow-headers access-control-allow-methods access-control-allow-origin
    access-control-expose-headers access-control-request-headers access-control-request-method age
    allow alt-svc authorization cache-control content-disposition content-encoding content-language
    content-range content-security-policy content-type cookie date dnt etag expires host
    if-modified-since if-none-match if-range last-modified link location origin pragma range referer
    referrer-policy sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode
    sec-fetch-site sec-fetch-user server set-cookie strict-transport-security traceparent
    upgrade-insecure-requests user-agent vary via www-authenticate x-content-type-options
    x-forwarded-for x-forwarded-proto x-frame-options x-request-id x-requested-with""".split()
)
_NONE: Final = frozenset[bytes]()
_REQUEST: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_PUSH: Final = _REQUEST - {b":protocol"}
_RESPONSE: Final = frozenset((b":status",))
#: More digits would overflow the integers of most other programs.
_MAX_LENGTH_DIGITS: Final = 18


class RequestHead(NamedTuple):
    """The parts of a request's header section that HTTP/3 needs."""

    method: bytes
    protocol: bytes  # of an Extended CONNECT (RFC 9220); empty for any other request
    path: bytes
    content_length: int  # -1: none is announced
    priority: Priority


class ResponseHead(NamedTuple):
    """The parts of a response's header section that HTTP/3 needs."""

    status: int
    content_length: int
    priority: Priority | None  # None: the server does not say
    is_interim: bool  # RFC 9114 §4.1: another response follows


def request_head(fields: Fields) -> RequestHead:
    """Read a request's header section. Raises MessageError for a malformed one."""
    pseudo, length, priority = _read(fields, _REQUEST, allow_te=True)
    method = pseudo.get(b":method")
    if method is None:
        raise MessageError("Pseudo-headers [b':method'] are missing")
    if _METHOD(method) is None:
        raise MessageError(f"Pseudo-header b':method' has invalid value {method!r}")
    protocol = pseudo.get(b":protocol", b"")
    if b":protocol" in pseudo and (method != b"CONNECT" or not protocol):
        raise MessageError("only CONNECT has a :protocol")  # RFC 8441 §4, by RFC 9220 §3
    if method == b"CONNECT" and not protocol:
        # §4.4
        if b":scheme" in pseudo or b":path" in pseudo:
            raise MessageError("a CONNECT request has neither :scheme nor :path")
        if not pseudo.get(b":authority"):
            raise MessageError("a CONNECT request has an :authority")
    _check_target(pseudo, fields)
    # §4.3.1: all but CONNECT name a scheme and a path, and so does an extended one.
    if (method != b"CONNECT" or protocol) and not {b":scheme", b":path"} <= pseudo.keys():
        missing = sorted({b":scheme", b":path"} - pseudo.keys())
        raise MessageError(f"Pseudo-headers {missing} are missing")
    return RequestHead(
        method,
        protocol,
        pseudo.get(b":path", b""),
        length,
        DEFAULT if priority is None else parse_priority(priority),
    )


def response_head(fields: Fields) -> ResponseHead:
    """Read a response's header section. Raises MessageError for a malformed one."""
    pseudo, length, priority = _read(fields, _RESPONSE)
    status = pseudo.get(b":status")
    if status is None:
        raise MessageError("Pseudo-headers [b':status'] are missing")
    if len(status) != 3 or not status.isdigit() or status < b"100":
        raise MessageError(f"Pseudo-header b':status' has invalid value {status!r}")
    if status == b"101":
        # §4.5: a stream of HTTP/3 does not change its protocol.
        raise MessageError("Pseudo-header b':status' cannot be 101")
    return ResponseHead(
        int(status),
        length,
        None if priority is None else parse_priority(priority),
        status < b"200",
    )


def validate_trailers(fields: Fields) -> None:
    """Raises MessageError for malformed trailers. Pseudo-headers have no place there (§4.3)."""
    _read(fields, _NONE)


def validate_request_headers(fields: Fields) -> None:
    """Raises MessageError for a malformed request."""
    request_head(fields)


def validate_response_headers(fields: Fields) -> None:
    """Raises MessageError for a malformed response."""
    response_head(fields)


def validate_push_promise_headers(fields: Fields) -> None:
    """Raises MessageError for a request that a server cannot promise (§4.6)."""
    pseudo, _, _ = _read(fields, _PUSH, allow_te=True)
    missing = sorted(_PUSH.difference(pseudo))
    if missing:
        raise MessageError(f"Pseudo-headers {missing} are missing")
    _check_target(pseudo, fields)


def size_of(fields: Fields) -> int:
    """A field section's size (§4.2.2): the name and value of each field, and 32 bytes."""
    size = FIELD_OVERHEAD_BYTES * len(fields)
    for name, value in fields:
        size += len(name) + len(value)
    return size


def is_interim_response(fields: Fields) -> bool:
    """Whether these fields, which are to be sent, are those of an interim (1xx) response."""
    return any(name == b":status" and value.startswith(b"1") for name, value in fields)


def _read(
    fields: Fields, allowed: frozenset[bytes], *, allow_te: bool = False
) -> tuple[dict[bytes, bytes], int, bytes | None]:
    """(pseudo-headers, content-length or -1, value of `priority` or None)."""
    pseudo: dict[bytes, bytes] = {}
    length = -1
    priority = None
    plain = False
    _check_values(fields)
    for name, value in fields:
        if name in _USUAL:
            plain = True
            continue
        if name[:1] == b":":
            if plain:
                raise MessageError(f"Pseudo-header {name!r} is not allowed after regular headers")
            if name not in allowed:
                raise MessageError(f"Pseudo-header {name!r} is not valid")
            if name in pseudo:
                raise MessageError(f"Pseudo-header {name!r} is included twice")
            pseudo[name] = value
            continue
        plain = True
        if _NAME(name) is None:
            if b":" in name and _NAME(name.replace(b":", b"_")) is not None:
                raise MessageError(f"Header {name!r} contains a non-initial colon")
            raise MessageError(f"Header {name!r} contains invalid characters")
        if name == b"content-length":
            length = _content_length(value, length)
        elif name == b"priority":
            # RFC 8941 §4.2: the lines of one field are one value.
            priority = value if priority is None else b"%b,%b" % (priority, value)
        elif name in _CONNECTION_SPECIFIC or (name == b"te" and not allow_te):
            raise MessageError(f"Header {name!r} is connection-specific")
        elif name == b"te" and value.lower() != b"trailers":
            raise MessageError(f"Header {name!r} value is not trailers")
    return pseudo, length, priority


def _check_values(fields: Fields) -> None:
    """`_check_value` for all fields, in a fifth of the time: two calls find whether there is one at
    which it must look."""
    values = [value for _, value in fields]
    joined = b"".join(values)
    is_clean = len(joined.translate(None, _BAD_BYTES)) == len(joined)
    if not is_clean or list(map(_STRIP, values)) != values:
        for name, value in fields:
            _check_value(name, value)


def _check_value(name: bytes, value: bytes) -> None:
    if _BAD_VALUE(value) is not None:
        raise MessageError(f"Header {name!r} value has forbidden characters")
    if value[:1] in _WHITE and value:
        raise MessageError(f"Header {name!r} value starts with whitespace")
    if value[-1:] in _WHITE and value:
        raise MessageError(f"Header {name!r} value ends with whitespace")


def _content_length(value: bytes, known: int) -> int:
    # Only digits: other programs read the further forms that `int` takes (signs, underscores)
    # differently.
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise MessageError("content-length is not a non-negative integer")
    length = int(value)
    if known not in (-1, length):
        raise MessageError("content-length is there twice, with two values")  # RFC 9110 §8.6
    return length


def _check_target(pseudo: dict[bytes, bytes], fields: Fields) -> None:
    """§4.3.1: check that the request names one valid target."""
    authority = pseudo.get(b":authority")
    hosts = [value for name, value in fields if name == b"host"]
    if authority is None and not hosts:
        raise MessageError("Pseudo-headers [b':authority'] are missing")
    if len(hosts) > 1 or (hosts and authority is not None and hosts[0] != authority):
        raise MessageError("host and :authority name different hosts")
    if pseudo.get(b":scheme", b"").lower() in (b"http", b"https"):
        if not (authority or (hosts and hosts[0])):
            raise MessageError("Pseudo-header b':authority' cannot be empty")
        if not pseudo.get(b":path", b"/"):
            raise MessageError("Pseudo-header b':path' cannot be empty")
