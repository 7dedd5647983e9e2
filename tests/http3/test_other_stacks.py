"""Messages, well-formed and nearly so, as ours reads them and as aioquic and qh3 do.

Each known difference is in `STRICTER`, with its reason; any other one fails.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, Final

import pytest
from aioquic.quic.events import StreamDataReceived
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.http3 import H3Connection
from quicbaton.http3.codes import ErrorCode as E
from quicbaton.http3.frames import encode_frame
from quicbaton.transport.frames import encode_varint as v
from tests.http3.http3_wire import Quic
from tests.http3.violations import FRAMES, GET, OK, POST, SETTINGS, TRAILERS, Fields, data, headers

logging.getLogger("http3").setLevel(logging.CRITICAL)

_LENGTH: Final = st.sampled_from([[], [(b"content-length", b"3")], [(b"content-length", b"0")]])
_FAULTS: Final = st.sampled_from(
    [
        *([[]] * 6),
        [(b"Upper", b"x")],
        [(b"a", b"b\n")],
        [(b":status", b"200")],
        [(b":path", b"/twice")],
        [(b"connection", b"close")],
    ]
)


def section(begin: list[Fields]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda first, length, fault: headers([*first, *length, *fault]),
        st.sampled_from(begin),
        _LENGTH,
        _FAULTS,
    )


_CONTENT: Final = st.sampled_from(
    [data(b"abc"), data(b""), data(b"a") + data(b"bc"), data(b"abcd")]
)
_OTHERS: Final = st.sampled_from([*FRAMES.values(), headers(TRAILERS), b"\0", b"\1\7", b""])
_GREASE: Final = st.sampled_from([b"", b"", encode_frame(0x21, b"x" * 70)])


def message(begin: list[Fields]) -> st.SearchStrategy[bytes]:
    """A header section, content, trailers, each of them perhaps; and something else, perhaps."""
    return st.builds(
        lambda *parts: b"".join(parts),
        _GREASE,
        st.one_of(section(begin), section(begin), section(begin), _OTHERS),
        st.one_of(_CONTENT, st.just(b"")),
        _GREASE,
        st.one_of(st.just(b""), st.just(headers(TRAILERS)), section([TRAILERS]), _OTHERS),
        st.one_of(st.just(b""), st.just(b""), _OTHERS),
    )


class Reading:
    """The result of reading a stream with an HTTP/3 connection."""

    def __init__(self, module: str, is_client: bool, sent: bytes, size: int, ended: bool) -> None:
        self.quic = Quic(is_client)
        events: Any = importlib.import_module("aioquic.quic.events")
        if module == "quicbaton":
            h3: Any = H3Connection(self.quic)
        else:
            h3 = importlib.import_module(f"{module}.h3.connection").H3Connection(self.quic)
            if module == "qh3":
                events = importlib.import_module("qh3.quic.events")
        self.told: list[Any] = []
        if is_client:
            h3.send_headers(0, GET, True)
        self.quic.outbox.clear()
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)] or [b""]
        steps = [(2 + is_client, v(0) + SETTINGS, False)]
        steps += [(0, piece, ended and n == len(pieces)) for n, piece in enumerate(pieces, 1)]
        for stream_id, piece, end in steps:
            event = events.StreamDataReceived(data=piece, end_stream=end, stream_id=stream_id)
            for happened in h3.handle_event(event):
                self._note(happened)

    @property
    def error(self) -> int | None:
        """The code with which the connection was closed, or the stream given up."""
        if self.quic.closed is not None:
            return self.quic.closed[0]
        codes = [event.error_code for event in self.quic.outbox if hasattr(event, "error_code")]
        failed = [told[1] for told in self.told if told[0] == "StreamFailed"]
        refused = [event for event in self.quic.outbox if isinstance(event, StreamDataReceived)]
        return (
            int((codes + failed)[0]) if codes + failed else E.H3_EXCESSIVE_LOAD if refused else None
        )

    @property
    def message(self) -> list[Any]:
        return [told for told in self.told if told[0] != "StreamFailed"]

    def _note(self, event: Any) -> None:
        name = type(event).__name__
        if name == "DataReceived":
            if self.told and self.told[-1][0] == "data":
                self.told[-1] = ["data", self.told[-1][1] + event.data]
            elif event.data:
                self.told.append(["data", event.data])
            if event.stream_ended:
                self.told.append(["end"])
        elif name in ("HeadersReceived", "InformationalHeadersReceived"):  # qh3 knows the latter
            self.told.append(["headers", list(event.headers)])
            if getattr(event, "stream_ended", False):
                self.told.append(["end"])
        elif name == "StreamFailed":
            self.told.append([name, event.error_code])
        else:
            self.told.append([name])


#: Where ours refuses what others take, or refuses it for another reason. Nothing that they refuse
#: is taken by ours.
STRICTER: Final = {
    # RFC 9114 §4.2: they let fields about a connection of HTTP/1 pass, qh3 line feeds as well.
    # §4.1.2: without content, or cut short, a message is malformed.
    E.H3_MESSAGE_ERROR,
    # §4.1: a request stream that ends before its request.
    E.H3_REQUEST_INCOMPLETE,
    # §7.1: a frame that is cut off by the stream's end.
    E.H3_FRAME_ERROR,
    # §7.2: a frame is judged by its header, they wait for all of it; and PRIORITY_UPDATE, which is
    # unknown to them (RFC 9218 §7.2).
    E.H3_FRAME_UNEXPECTED,
    # RFC 9204 §2.1.2: they have a dynamic table and wait for what it lacks.
    E.QPACK_DECOMPRESSION_FAILED,
}


@pytest.mark.parametrize("module", ["aioquic", "qh3"])
@pytest.mark.parametrize("is_client", [False, True])
@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.data())
def test_messages_are_read_as_others_read_them(
    module: str, is_client: bool, choose: st.DataObject
) -> None:
    begin = [OK, [(b":status", b"103")]] if is_client else [GET, POST]
    sent = choose.draw(message(begin))
    size = choose.draw(st.sampled_from([1, 7, 1 << 20]))
    ended = choose.draw(st.booleans())
    ours = Reading("quicbaton", is_client, sent, size, ended)
    theirs = Reading(module, is_client, sent, size, ended)
    if ours.error is None and theirs.error is None:
        told = ours.message
        if module == "qh3" and told[-1:] == [["end"]] and theirs.message[-1:] != [["end"]]:
            told.pop()  # qh3 loses the end of a stream behind a frame that it does not know
        assert told == theirs.message
    elif ours.error != theirs.error:
        assert ours.error in STRICTER, (ours.error, theirs.error)
