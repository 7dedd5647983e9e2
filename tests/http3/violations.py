"""A misbehaving peer, as a table: its bytes, the state of ours in which they come, and the outcome.

`sent` are the peer's bytes on the stream of a `scene`; `outcome` is

    Closes(code)    the connection is closed with this code (RFC 9114 §8)
    Fails(code)     only the stream is given up with this code, the others go on
    Answers(status) a server says this instead of the program, the others go on
    IGNORED         nothing happens at all
    SERVED          the program gets what it should

and `rule` is the section with the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from quicbaton.http3.codes import ErrorCode as E
from quicbaton.http3.codes import FrameType as F
from quicbaton.http3.codes import Setting
from quicbaton.http3.frames import encode_frame, encode_settings
from quicbaton.http3.qpack import encode_fields
from quicbaton.limits import MAX_FIELD_SECTION_BYTES, MAX_FIELDS, MAX_PRIORITY_UPDATE_BYTES
from quicbaton.limits import MAX_SETTINGS_BYTES as SETTINGS_BYTES
from quicbaton.transport.frames import encode_varint as v

Fields = list[tuple[bytes, bytes]]


class Closes(NamedTuple):
    code: int


class Fails(NamedTuple):
    code: int


class Answers(NamedTuple):
    status: int


IGNORED: Final = "ignored"
SERVED: Final = "served"


class Row(NamedTuple):
    name: str
    role: str  # ours
    scene: str
    sent: bytes
    outcome: object
    rule: str
    ended: bool = False
    webtransport: bool = False


GET: Final[Fields] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.test"),
    (b":path", b"/"),
]
POST: Final[Fields] = [(b":method", b"POST"), *GET[1:]]
CONNECT: Final[Fields] = [(b":method", b"CONNECT"), (b":authority", b"example.test:443")]
SESSION: Final[Fields] = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), *GET[1:]]
OK: Final[Fields] = [(b":status", b"200")]
TRAILERS: Final[Fields] = [(b"digest", b"abc")]


def headers(fields: Fields) -> bytes:
    return encode_frame(F.HEADERS, encode_fields(fields))


def data(content: bytes) -> bytes:
    return encode_frame(F.DATA, content)


def promise(push_id: int) -> bytes:
    return encode_frame(F.PUSH_PROMISE, v(push_id) + encode_fields(GET))


GREASE: Final = encode_frame(0x21, b"grease")
LONG_GREASE: Final = encode_frame(0x1F * 99 + 0x21, bytes(300))
SETTINGS: Final = encode_frame(F.SETTINGS, encode_settings({Setting.QPACK_BLOCKED_STREAMS: 16}))
#: One valid frame of each type.
FRAMES: Final[dict[str, bytes]] = {
    "DATA": data(b"content"),
    "empty DATA": data(b""),
    "CANCEL_PUSH": encode_frame(F.CANCEL_PUSH, v(0)),
    "SETTINGS": SETTINGS,
    "PUSH_PROMISE": promise(0),
    "GOAWAY": encode_frame(F.GOAWAY, v(0)),
    "MAX_PUSH_ID": encode_frame(F.MAX_PUSH_ID, v(9)),
    "PRIORITY_UPDATE": encode_frame(F.PRIORITY_UPDATE, v(0) + b"u=1"),
    "PRIORITY_UPDATE_PUSH": encode_frame(F.PRIORITY_UPDATE_PUSH, v(0) + b"u=1"),
    "HTTP/2 PRIORITY": encode_frame(0x2, b"\0\0\0\0\0"),
    "HTTP/2 PING": encode_frame(0x6, bytes(8)),
    "HTTP/2 WINDOW_UPDATE": encode_frame(0x8, bytes(4)),
    "HTTP/2 CONTINUATION": encode_frame(0x9, b""),
    "grease": GREASE,
    "long grease": LONG_GREASE,
    "empty grease": encode_frame(0x21, b""),
}
#: The phases of messages, for each role: the stream's bytes so far. Further bytes are read there.
SCENES: Final[dict[str, dict[str, bytes]]] = {
    "server": {
        "before headers": b"",
        "after headers": headers(POST),
        "in content": headers(POST) + data(b"x"),
        "after trailers": headers(POST) + data(b"x") + headers(TRAILERS),
        "in a tunnel": headers(CONNECT),
    },
    "client": {
        "before headers": b"",
        "after hints": headers([(b":status", b"103")]),
        "after headers": headers(OK),
        "in content": headers(OK) + data(b"x"),
        "after trailers": headers(OK) + headers(TRAILERS),
        "in a tunnel": headers(OK),
        "in a push": v(1) + v(3) + headers(OK),
        "push before headers": v(1) + v(3),
    },
}
_MESSAGE_RULE: Final = "RFC 9114 §4.1, §7.2"


def _message_frames(role: str) -> Iterator[Row]:
    """Each frame type in each state of a message."""
    unexpected = Closes(E.H3_FRAME_UNEXPECTED)
    for scene in SCENES[role]:
        has_content = scene in ("after headers", "in content", "in a tunnel", "in a push")
        for name, frame in FRAMES.items():
            outcome: object = unexpected
            if "DATA" in name and has_content:
                outcome = SERVED
            elif "grease" in name:
                outcome = IGNORED
            elif name == "PUSH_PROMISE" and role == "client":
                is_push = "push" in scene
                outcome = unexpected if is_push or scene == "in a tunnel" else SERVED
            yield Row(name, role, scene, frame, outcome, _MESSAGE_RULE)
        fields = TRAILERS if has_content else POST if role == "server" else OK
        outcome = unexpected if scene in ("after trailers", "in a tunnel") else SERVED
        yield Row("HEADERS", role, scene, headers(fields), outcome, "RFC 9114 §4.1, §4.4")


def _control_frames(role: str) -> Iterator[Row]:
    """Each frame type on the control stream."""
    allowed = {
        "server": ("CANCEL_PUSH", "GOAWAY", "MAX_PUSH_ID", "PRIORITY_UPDATE"),
        "client": ("CANCEL_PUSH", "GOAWAY"),
    }[role]
    for name, frame in FRAMES.items():
        if name != "SETTINGS":
            missing = Closes(E.H3_MISSING_SETTINGS)
            yield Row(name, role, "control without SETTINGS", frame, missing, "RFC 9114 §6.2.1")
        outcome: object = Closes(E.H3_FRAME_UNEXPECTED)
        if name in allowed or "grease" in name:
            outcome = SERVED
        if name == "CANCEL_PUSH" and role == "server":
            outcome = Closes(E.H3_ID_ERROR)  # of a push that was never promised
        if name == "PRIORITY_UPDATE_PUSH" and role == "server":
            outcome = Closes(E.H3_ID_ERROR)
        yield Row(name, role, "control", frame, outcome, "RFC 9114 §7.2, RFC 9218 §7.2")
    yield Row(
        "HEADERS", role, "control", headers(GET), Closes(E.H3_FRAME_UNEXPECTED), "RFC 9114 §7.2.2"
    )


def _control_payloads() -> Iterator[Row]:
    """Frames of the control stream whose payload is wrong."""

    def row(name: str, frame: bytes, code: E, rule: str, role: str = "server") -> Row:
        return Row(name, role, "control", frame, Closes(code), rule)

    for kind in (F.GOAWAY, F.CANCEL_PUSH, F.MAX_PUSH_ID):
        role = "server" if kind == F.MAX_PUSH_ID else "client"
        name = kind.name
        error = E.H3_FRAME_ERROR
        yield row(f"empty {name}", encode_frame(kind, b""), error, "RFC 9114 §7.1", role)
        yield row(f"cut {name}", encode_frame(kind, b"\x40"), error, "RFC 9114 §7.1", role)
        yield row(f"{name} with more", encode_frame(kind, b"\0\0"), error, "RFC 9114 §7.1", role)
        huge = v(kind) + v(1 << 40)
        yield row(f"huge {name}", huge, error, "RFC 9114 §7.1", role)
    lower = encode_frame(F.MAX_PUSH_ID, v(9)) + encode_frame(F.MAX_PUSH_ID, v(8))
    yield row("MAX_PUSH_ID reduced", lower, E.H3_ID_ERROR, "RFC 9114 §7.2.7")
    raised = encode_frame(F.GOAWAY, v(4)) + encode_frame(F.GOAWAY, v(8))
    for role in ("server", "client"):
        yield row("GOAWAY raised", raised, E.H3_ID_ERROR, "RFC 9114 §5.2", role)
    for stream_id in (1, 2, 3):
        named = encode_frame(F.GOAWAY, v(stream_id))
        yield row(f"GOAWAY of {stream_id}", named, E.H3_ID_ERROR, "RFC 9114 §5.2", "client")
    beyond = encode_frame(F.CANCEL_PUSH, v(9))
    yield row("CANCEL_PUSH beyond", beyond, E.H3_ID_ERROR, "RFC 9114 §7.2.3", "client")
    for element in (1, 2, 3):
        update = encode_frame(F.PRIORITY_UPDATE, v(element) + b"u=1")
        yield row(f"PRIORITY_UPDATE of {element}", update, E.H3_ID_ERROR, "RFC 9218 §7.2")
    update = encode_frame(F.PRIORITY_UPDATE, b"")
    yield row("empty PRIORITY_UPDATE", update, E.H3_FRAME_ERROR, "RFC 9114 §7.1")
    update = v(F.PRIORITY_UPDATE) + v(MAX_PRIORITY_UPDATE_BYTES + 1)
    yield row("huge PRIORITY_UPDATE", update, E.H3_EXCESSIVE_LOAD, "RFC 9114 §10.5")
    update = encode_frame(F.PRIORITY_UPDATE, v(4) + b"\xff nonsense")
    yield Row("PRIORITY_UPDATE that says nothing", "server", "control", update, SERVED, "§7.2")


def _settings() -> Iterator[Row]:
    """SETTINGS that are wrong."""
    scene = "control without SETTINGS"

    def row(name: str, payload: bytes, code: E, rule: str, role: str = "server") -> Row:
        return Row(name, role, scene, encode_frame(F.SETTINGS, payload), Closes(code), rule)

    for identifier in (0x0, 0x2, 0x3, 0x4, 0x5):
        payload = v(identifier) + v(1)
        name = f"HTTP/2 setting {identifier}"
        yield row(name, payload, E.H3_SETTINGS_ERROR, "RFC 9114 §7.2.4.1")
    for role in ("server", "client"):
        twice = v(0x6) + v(1) + v(0x6) + v(1)
        yield row("setting twice", twice, E.H3_SETTINGS_ERROR, "RFC 9114 §7.2.4", role)
        yield row("cut setting", b"\x06\x40", E.H3_FRAME_ERROR, "RFC 9114 §7.1", role)
        yield row("setting without value", b"\x06", E.H3_FRAME_ERROR, "RFC 9114 §7.1", role)
        for setting in (Setting.H3_DATAGRAM, Setting.ENABLE_CONNECT_PROTOCOL):
            payload = v(setting) + v(2)
            rule = "RFC 9297 §2.1.1, RFC 8441 §3"
            yield row(f"{setting.name} is 2", payload, E.H3_SETTINGS_ERROR, rule, role)
        for setting in (Setting.ENABLE_WEBTRANSPORT, Setting.WEBTRANSPORT_ENABLED):
            payload = v(setting) + v(2) + v(Setting.H3_DATAGRAM) + v(1)
            rule = "WebTransport, Establishing"
            yield row(f"{setting.name} is 2", payload, E.H3_SETTINGS_ERROR, rule, role)
    payload = b"".join(v(0x40 + 0x1F * n) + v(0) for n in range(33))
    yield row("33 settings", payload, E.H3_EXCESSIVE_LOAD, "RFC 9114 §10.5")
    frame = v(F.SETTINGS) + v(SETTINGS_BYTES + 1)
    excessive = Closes(E.H3_EXCESSIVE_LOAD)
    yield Row("huge SETTINGS", "server", scene, frame, excessive, "RFC 9114 §10.5")
    frame = encode_frame(F.SETTINGS, b"")
    yield Row("empty SETTINGS", "server", scene, frame, SERVED, "RFC 9114 §7.2.4")
    frame = encode_frame(F.SETTINGS, v(0x21) + v(1 << 60) + v(1 << 50) + v(7))
    yield Row("unknown settings", "server", scene, frame, SERVED, "RFC 9114 §7.2.4")


def _field_sections() -> Iterator[Row]:
    """Header sections that are wrong: of a request, of a response, trailers."""
    bad = Fails(E.H3_MESSAGE_ERROR)
    incomplete = "RFC 9114 §4.3.1"
    requests: list[tuple[str, Fields, str]] = [
        ("no method", GET[1:], incomplete),
        ("no scheme", [GET[0], *GET[2:]], incomplete),
        ("no path", GET[:3], incomplete),
        ("empty path", [*GET[:3], (b":path", b"")], incomplete),
        ("no authority", [*GET[:2], GET[3]], incomplete),
        ("empty authority", [*GET[:2], (b":authority", b""), GET[3]], incomplete),
        ("two hosts", [*GET, (b"host", b"other.test")], incomplete),
        ("no method at all", [(b":method", b""), *GET[1:]], "RFC 9110 §9.1"),
        ("method with a space", [(b":method", b"GET /"), *GET[1:]], "RFC 9110 §9.1"),
        ("method twice", [GET[0], *GET], "RFC 9114 §4.3"),
        ("status in a request", [*GET, OK[0]], "RFC 9114 §4.3"),
        ("unknown pseudo-header", [*GET, (b":color", b"red")], "RFC 9114 §4.3"),
        ("pseudo-header behind a field", [*GET[:3], (b"a", b"b"), GET[3]], "RFC 9114 §4.3"),
        ("upper case", [*GET, (b"Accept", b"*/*")], "RFC 9114 §4.2"),
        ("space in a name", [*GET, (b"a b", b"x")], "RFC 9114 §10.3"),
        ("colon in a name", [*GET, (b"a:b", b"x")], "RFC 9114 §10.3"),
        ("line feed in a value", [*GET, (b"a", b"b\nc: d")], "RFC 9114 §10.3"),
        ("return in a value", [*GET, (b"a", b"b\rc")], "RFC 9114 §10.3"),
        ("zero in a value", [*GET, (b"a", b"\0")], "RFC 9114 §10.3"),
        ("space before a value", [*GET, (b"a", b" b")], "RFC 9114 §10.3"),
        ("tab behind a value", [*GET, (b"a", b"b\t")], "RFC 9114 §10.3"),
        ("connection", [*GET, (b"connection", b"close")], "RFC 9114 §4.2"),
        ("keep-alive", [*GET, (b"keep-alive", b"1")], "RFC 9114 §4.2"),
        ("proxy-connection", [*GET, (b"proxy-connection", b"x")], "RFC 9114 §4.2"),
        ("transfer-encoding", [*GET, (b"transfer-encoding", b"chunked")], "RFC 9114 §4.1"),
        ("upgrade", [*GET, (b"upgrade", b"h2c")], "RFC 9114 §4.2"),
        ("te: gzip", [*GET, (b"te", b"gzip")], "RFC 9114 §4.2"),
        ("length of letters", [*GET, (b"content-length", b"ten")], "RFC 9110 §8.6"),
        ("negative length", [*GET, (b"content-length", b"-1")], "RFC 9110 §8.6"),
        ("signed length", [*GET, (b"content-length", b"+1")], "RFC 9110 §8.6"),
        ("huge length", [*GET, (b"content-length", b"9" * 30)], "RFC 9110 §8.6"),
        (
            "two lengths",
            [*GET, (b"content-length", b"1"), (b"content-length", b"2")],
            "RFC 9110 §8.6",
        ),
        ("CONNECT with a path", [*CONNECT, (b":path", b"/")], "RFC 9114 §4.4"),
        ("CONNECT with a scheme", [*CONNECT, (b":scheme", b"https")], "RFC 9114 §4.4"),
        ("CONNECT to nowhere", [CONNECT[0], (b"host", b"a:1")], "RFC 9114 §4.4"),
        ("protocol of a GET", [*GET, (b":protocol", b"websocket")], "RFC 8441 §4"),
        ("empty protocol", [*SESSION[:1], (b":protocol", b""), *SESSION[2:]], "RFC 8441 §4"),
        ("extended CONNECT, no path", SESSION[:4], "RFC 8441 §4"),
    ]
    nameless = encode_frame(F.HEADERS, encode_fields(GET) + b"\x20\x01x")
    # Malformed by RFC 9114 §10.3, but lsqpack takes it for no field section at all.
    lost = Closes(E.QPACK_DECOMPRESSION_FAILED)
    yield Row("empty name", "server", "before headers", nameless, lost, "RFC 9204 §2.2")
    for name, fields, rule in requests:
        yield Row(name, "server", "before headers", headers(fields), bad, rule)
        yield Row(name, "server", "before headers", headers(fields), bad, rule, ended=True)
    responses: list[tuple[str, Fields, str]] = [
        ("no status", [(b"server", b"x")], "RFC 9114 §4.3.2"),
        ("status twice", [*OK, *OK], "RFC 9114 §4.3"),
        ("status of two digits", [(b":status", b"20")], "RFC 9114 §4.3.2"),
        ("status of letters", [(b":status", b"two")], "RFC 9114 §4.3.2"),
        ("status below 100", [(b":status", b"042")], "RFC 9110 §15"),
        ("101", [(b":status", b"101")], "RFC 9114 §4.5"),
        ("method in a response", [*OK, GET[0]], "RFC 9114 §4.3"),
        ("te in a response", [*OK, (b"te", b"trailers")], "RFC 9114 §4.2"),
        ("upper case", [*OK, (b"Server", b"x")], "RFC 9114 §4.2"),
    ]
    for name, fields, rule in responses:
        for scene in ("before headers", "after hints", "push before headers"):
            yield Row(name, "client", scene, headers(fields), bad, rule)
    for role in ("server", "client"):
        for scene in ("after headers", "in content"):
            for fields in ([*TRAILERS, *OK], GET[:1], [(b"A", b"b")], [(b"connection", b"x")]):
                name = f"trailers with {fields[-1][0]!r}"
                yield Row(name, role, scene, headers(fields), bad, "RFC 9114 §4.3")
    bad_promise = encode_frame(F.PUSH_PROMISE, v(0) + encode_fields(GET[:2]))
    yield Row("promise of half a request", "client", "after headers", bad_promise, bad, "§4.6")


def _qpack() -> Iterator[Row]:
    """Encoded field sections that are wrong, and instructions for tables that do not exist."""
    failed = Closes(E.QPACK_DECOMPRESSION_FAILED)
    blocks = {
        "empty section": b"",
        "half a prefix": b"\0",
        "dynamic table": b"\x02\x00\x80",
        "dynamic name": b"\x02\x00\x40\x01x",
        "post-base index": b"\x02\x80\x10",
        "no such static entry": b"\0\0\xff\x80\x01",
        "cut literal": b"\0\0\x27",
        "value beyond the section": b"\0\0\x51\x09ab",
        "bad Huffman code": b"\0\0\x51\x84\xff\xff\xff\xff",
    }
    for role in ("server", "client"):
        for name, block in blocks.items():
            frame = encode_frame(F.HEADERS, block)
            yield Row(name, role, "before headers", frame, failed, "RFC 9204 §2.2, §4.5")
        for name, instruction in {
            "capacity of 32": b"\x3f\x01",
            "insertion": b"\x41x\x01y",
            "duplicate": b"\x00",
        }.items():
            outcome = Closes(E.QPACK_ENCODER_STREAM_ERROR)
            yield Row(name, role, "encoder", instruction, outcome, "RFC 9204 §3.2.3, §4.3")
        for name, instruction in {
            "section acknowledgement": b"\x80",
            "insert count increment": b"\x01",
            "increment of zero": b"\x00",
            "integer without end": b"\x7f" + b"\xff" * 10,
        }.items():
            outcome = Closes(E.QPACK_DECODER_STREAM_ERROR)
            yield Row(name, role, "decoder", instruction, outcome, "RFC 9204 §4.4")
        yield Row("capacity of zero", role, "encoder", b"\x20\x20", SERVED, "RFC 9204 §4.3.1")
        cancellations = b"\x44\x7f\xc1\xff\x3f\x40"
        yield Row("cancellations", role, "decoder", cancellations, SERVED, "RFC 9204 §4.4.2")


def _sizes() -> Iterator[Row]:
    """Field sections that are larger than what we take (RFC 9114 §4.2.2)."""
    rule = "RFC 9114 §4.2.2"
    too_large = v(F.HEADERS) + v(MAX_FIELD_SECTION_BYTES + 1)
    many: Fields = [(b"a", b"b")] * (MAX_FIELDS + 1)
    bomb = encode_frame(F.HEADERS, b"\0\0" + b"\xd1" * 5000)
    yield Row("announced too large", "server", "before headers", too_large, Answers(431), rule)
    yield Row("too many", "server", "before headers", headers(GET + many), Answers(431), rule)
    yield Row("bomb", "server", "before headers", bomb, Answers(431), rule, ended=True)
    load = Fails(E.H3_EXCESSIVE_LOAD)
    yield Row("trailers too large", "server", "after headers", too_large, Answers(431), rule)
    for scene in ("before headers", "after headers", "push before headers"):
        yield Row("announced too large", "client", scene, too_large, load, rule)
    yield Row("too many", "client", "before headers", headers(OK + many), load, rule)
    promised = v(F.PUSH_PROMISE) + v(MAX_FIELD_SECTION_BYTES + 1)
    yield Row("promise too large", "client", "in content", promised, load, rule)


def _ends() -> Iterator[Row]:
    """Streams that end too early."""
    rule = "RFC 9114 §4.1, §4.1.2, §7.1"
    cut = Closes(E.H3_FRAME_ERROR)
    bad = Fails(E.H3_MESSAGE_ERROR)

    def row(name: str, role: str, scene: str, sent: bytes, outcome: object) -> Row:
        return Row(name, role, scene, sent, outcome, rule, ended=True)

    yield row("nothing", "server", "before headers", b"", Fails(E.H3_REQUEST_INCOMPLETE))
    yield row("grease", "server", "before headers", GREASE, Fails(E.H3_REQUEST_INCOMPLETE))
    yield row("nothing", "client", "before headers", b"", bad)
    yield row("hints only", "client", "after hints", b"", bad)
    yield row("nothing", "client", "push before headers", b"", bad)
    for role in ("server", "client"):
        for scene in ("before headers", "after headers", "after trailers"):
            for name, sent in {"half a frame": GREASE[:-1], "half a type": b"\x40"}.items():
                yield row(name, role, scene, sent, cut)
        yield row("half a section", role, "before headers", headers(OK)[:-1], cut)
        yield row("half of DATA", role, "after headers", data(b"x" * 99)[:-1], cut)
        empty = encode_frame(F.HEADERS, b"\0\0")
        yield row("empty trailers", role, "after headers", empty, SERVED)
        yield row("no fields", role, "before headers", empty, bad)
    yield row("whole", "server", "after headers", b"", SERVED)
    yield row("whole", "client", "after headers", b"", SERVED)
    length = [*POST, (b"content-length", b"3")]
    rule = "RFC 9114 §4.1.2"
    for name, content in {"short": b"ab", "long": b"abcd", "none": b""}.items():
        sent = headers(length) + (data(content) if content else b"")
        yield row(f"{name} content", "server", "before headers", sent, bad)
        sent = headers([*OK, (b"content-length", b"3")]) + (data(content) if content else b"")
        yield row(f"{name} content", "client", "before headers", sent, bad)
        sent += headers(TRAILERS)
        yield row(f"{name} content, trailers", "client", "before headers", sent, bad)
    sent = headers([(b":status", b"204")]) + data(b"x")
    yield row("content of 204", "client", "before headers", sent, bad)
    sent = headers([(b":status", b"304"), (b"content-length", b"3")])
    yield row("length of 304", "client", "before headers", sent, SERVED)


def _unidirectional() -> Iterator[Row]:
    """Streams by their type, and critical ones that end."""
    created = Closes(E.H3_STREAM_CREATION_ERROR)
    closed = Closes(E.H3_CLOSED_CRITICAL_STREAM)
    for role in ("server", "client"):
        for kind, name in ((0, "control"), (2, "encoder"), (3, "decoder")):
            yield Row(f"second {name}", role, "uni", v(kind), created, "RFC 9114 §6.2.1")
            yield Row(f"end of {name}", role, name, b"", closed, "RFC 9114 §6.2.1", ended=True)
        for kind in (0x21, 0x40, 1 << 60):
            sent = v(kind) + b"whatever"
            yield Row(f"type {kind}", role, "uni", sent, IGNORED, "RFC 9114 §6.2.3, §9")
            yield Row(f"type {kind}", role, "uni", sent, IGNORED, "§6.2.3, §9", ended=True)
        yield Row("ends within its type", role, "uni", b"\x40", IGNORED, "§6.2", ended=True)
        yield Row("ends before its type", role, "uni", b"", IGNORED, "§6.2", ended=True)
        yield Row("WebTransport", role, "uni", v(0x54) + v(0) + b"x", IGNORED, "§6.2")
    yield Row("push from a client", "server", "uni", v(1) + v(0), created, "RFC 9114 §6.2.2")
    beyond = Closes(E.H3_ID_ERROR)
    yield Row("push beyond", "client", "uni", v(1) + v(9), beyond, "RFC 9114 §4.6")
    yield Row("push twice", "client", "second push", v(1) + v(3), beyond, "RFC 9114 §4.6")
    yield Row("promise beyond", "client", "in content", promise(9), beyond, "RFC 9114 §7.2.5")
    sent = encode_frame(F.PUSH_PROMISE, b"")
    outcome = Closes(E.H3_FRAME_ERROR)
    yield Row("promise of nothing", "client", "in content", sent, outcome, "RFC 9114 §7.2.5")
    yield Row("ends within its ID", "client", "uni", v(1) + b"\x40", IGNORED, "§6.2", ended=True)
    yield Row("a server's stream", "client", "server bidi", headers(GET), created, "§6.1")
    yield Row("grease of a server's", "client", "server bidi", GREASE, created, "RFC 9114 §6.1")


def _webtransport() -> Iterator[Row]:
    """Violations of the extension's rules (draft-ietf-webtrans-http3)."""
    wrong = Closes(E.H3_FRAME_ERROR)
    no_session = Closes(E.H3_ID_ERROR)
    late = v(F.WEBTRANSPORT_STREAM) + v(8)

    def row(name: str, role: str, scene: str, sent: bytes, outcome: object, rule: str) -> Row:
        return Row(name, role, scene, sent, outcome, rule, webtransport=True)

    for role in ("server", "client"):
        for scene in ("after headers", "in content", "after trailers", "in a tunnel"):
            yield row("WT_STREAM", role, scene, late, wrong, "Bidirectional Streams")
        for stream_id in (1, 2, 3):
            sent = v(0x54) + v(stream_id)
            name = f"stream of session {stream_id}"
            yield row(name, role, "uni", sent, no_session, "WebTransport Features")
    yield row("WT_STREAM", "client", "before headers", late, wrong, "Bidirectional Streams")
    yield row("WT_STREAM", "client", "in a push", late, wrong, "Bidirectional Streams")
    sent = GREASE + late
    yield row("late WT_STREAM", "server", "before headers", sent, wrong, "Bidirectional Streams")
    sent = v(F.WEBTRANSPORT_STREAM) + v(2)
    yield row("no session", "server", "before headers", sent, no_session, "WebTransport Features")
    gone = Fails(E.WEBTRANSPORT_SESSION_GONE)
    sent = v(0x54) + v(4)
    yield row("stream of a GET", "client", "uni", sent, gone, "Session Termination")
    sent = v(F.WEBTRANSPORT_STREAM) + v(4) + b"x"
    yield row("stream of a GET", "client", "server bidi", sent, gone, "Session Termination")
    created = Closes(E.H3_STREAM_CREATION_ERROR)
    yield row("a server's request", "client", "server bidi", headers(GET), created, "§6.1")
    yield row(
        "a server's promise",
        "client",
        "server bidi",
        promise(0),
        Closes(E.H3_FRAME_UNEXPECTED),
        "§7.2.5",
    )
    yield row(
        "a server's content",
        "client",
        "server bidi",
        data(b"x"),
        Closes(E.H3_FRAME_UNEXPECTED),
        "§7.2.1",
    )
    bad = Fails(E.H3_MESSAGE_ERROR)
    for role in ("server", "client"):
        for name, value in {
            "no code": b"abc",
            "no UTF-8": bytes(4) + b"\xff",
            "a long reason": bytes(4) + b"x" * 1025,
        }.items():
            sent = data(v(0x2843) + v(len(value)) + value)
            yield row(f"close with {name}", role, "in a session", sent, bad, "Session Termination")
        close = v(0x2843) + v(4) + bytes(4)
        for more in (v(0x21) + v(0), v(0) + v(1) + b"x"):
            for sent in (data(close + more), data(close) + data(more)):
                name = f"{more.hex()} behind the close"
                yield row(name, role, "in a session", sent, bad, "Session Termination")
        sent = data(v(0x78AE))
        outcome = Fails(E.H3_MESSAGE_ERROR)
        yield row("half a capsule", role, "in a session", sent, outcome, "RFC 9297 §3.3")._replace(
            ended=True
        )
        sent = data(v(0) + v(5000))
        yield row("huge capsule", role, "in a session", sent, bad, "RFC 9297 §3.3")


ROWS: Final = [
    *_message_frames("server"),
    *_message_frames("client"),
    *_control_frames("server"),
    *_control_frames("client"),
    *_control_payloads(),
    *_settings(),
    *_field_sections(),
    *_qpack(),
    *_sizes(),
    *_ends(),
    *_unidirectional(),
    *_webtransport(),
]
