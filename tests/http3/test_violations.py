"""A peer that breaks each rule, in each state: only the scope that RFC 9114 names may suffer."""

from __future__ import annotations

import pytest
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from quicbaton.http3.events import StreamFailed
from quicbaton.http3.frames import pull_header
from quicbaton.http3.qpack import decode_fields
from quicbaton.transport.frames import encode_varint as v
from tests.http3.http3_wire import End
from tests.http3.violations import (
    CONNECT,
    GET,
    IGNORED,
    OK,
    ROWS,
    SCENES,
    SERVED,
    SESSION,
    SETTINGS,
    Answers,
    Closes,
    Fails,
    Row,
    data,
    headers,
)

#: The request beside the one that goes wrong.
SIBLING = 4
WHOLE = 1 << 62


class Scene:
    """One of ours, in a state, with a sibling of the stream that is about to go wrong."""

    def __init__(self, row: Row, moving: bool) -> None:
        is_client = row.role == "client"
        self.end = End(is_client, moving, enable_webtransport=row.webtransport)
        self.is_client = is_client
        own = 1 if is_client else 0
        self.control, self.encoder, self.decoder, self.uni = (own + n for n in (2, 6, 10, 14))
        has_settings = row.scene != "control without SETTINGS"
        self.end.feed(self.control, v(0) + (SETTINGS if has_settings else b""))
        self.end.feed(self.encoder, v(2))
        self.end.feed(self.decoder, v(3))
        if is_client:
            request = CONNECT if row.scene == "in a tunnel" else GET
            request = SESSION if row.scene == "in a session" else request
            is_tunnel = request is not GET
            self.end.h3.send_headers(0, request, end_stream=not is_tunnel)
            self.end.h3.send_headers(SIBLING, GET, end_stream=True)
        else:
            self.end.feed(SIBLING, headers([(b":method", b"POST"), *GET[1:]]))
        self.stream_id = self._set(row.scene)
        self.end.seen.clear()
        self.end.take_sent()

    def _set(self, scene: str) -> int:
        places = {
            "control": self.control,
            "control without SETTINGS": self.control,
            "encoder": self.encoder,
            "decoder": self.decoder,
            "uni": self.uni,
            "server bidi": 1,
        }
        if scene in places:
            return places[scene]
        if scene == "in a session":
            self.end.feed(0, headers(OK if self.is_client else SESSION))
            if not self.is_client:
                self.end.h3.send_headers(0, OK)
            return 0
        if scene == "second push":
            self.end.feed(self.uni, v(1) + v(3) + headers(OK))
            return self.uni + 4
        stream_id = self.uni if "push" in scene else 0
        begun = SCENES["client" if self.is_client else "server"][scene]
        if begun:
            self.end.feed(stream_id, begun)
        return stream_id

    def sibling_goes_on(self) -> bool:
        """Whether the other request is read and answered to its end."""
        self.end.seen.clear()
        if self.is_client:
            self.end.feed(SIBLING, headers(OK) + data(b"sibling"), True)
            first, content = self.end.seen
            assert isinstance(first, HeadersReceived)
        else:
            self.end.feed(SIBLING, data(b"sibling"), True)
            (content,) = self.end.seen
            self.end.h3.send_headers(SIBLING, OK)
            self.end.h3.send_data(SIBLING, b"answer", end_stream=True)
        return content == DataReceived(b"sibling", SIBLING, True)


def codes_of(sent: list[QuicEvent], stream_id: int) -> set[int]:
    """The codes of RESET_STREAM and STOP_SENDING for a stream."""
    return {
        event.error_code
        for event in sent
        if isinstance(event, StreamReset | StopSendingReceived) and event.stream_id == stream_id
    }


def status_of(sent: list[QuicEvent], stream_id: int) -> int:
    (response,) = [
        event
        for event in sent
        if isinstance(event, StreamDataReceived) and event.stream_id == stream_id
    ]
    assert response.end_stream
    header = pull_header(response.data, 0)
    assert header is not None
    return int(dict(decode_fields(response.data[header[2] :]))[b":status"])


@pytest.mark.parametrize(("size", "moving"), [(WHOLE, False), (WHOLE, True), (1, True)])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.role}-{row.scene}-{row.name}")
def test_a_violation_has_the_outcome_that_the_rfc_gives_it(
    row: Row, size: int, moving: bool
) -> None:
    scene = Scene(row, moving)
    end = scene.end
    end.feed(scene.stream_id, row.sent, row.ended, size)
    outcome = row.outcome
    if isinstance(outcome, Closes):
        assert end.quic.closed is not None
        assert end.quic.closed[0] == outcome.code
        end.take_sent()
        # Nothing more is said or heard.
        end.feed(SIBLING, headers(OK) if scene.is_client else data(b"x"))
        assert end.take_sent() == []
        return
    assert end.quic.closed is None, end.quic.closed
    sent = end.take_sent()
    codes = codes_of(sent, scene.stream_id)
    if isinstance(outcome, Fails):
        # Where both directions have ended there is nobody to say it to.
        assert codes == {outcome.code} or (row.ended and scene.is_client and not codes)
        if scene.is_client and scene.stream_id == 0:
            failed = [event for event in end.seen if isinstance(event, StreamFailed)]
            assert [event.error_code for event in failed] == [outcome.code]
        assert not end.h3._held_bytes
    elif isinstance(outcome, Answers):
        assert status_of(sent, scene.stream_id) == outcome.status
    else:
        assert codes == set()
        assert outcome in (IGNORED, SERVED)
        assert outcome == SERVED or end.seen == []
    assert codes_of(sent, SIBLING) == set()
    assert scene.sibling_goes_on()


def test_the_table_has_no_row_twice() -> None:
    keys = [(row.role, row.scene, row.sent, row.ended, row.webtransport) for row in ROWS]
    assert len(set(keys)) == len(keys)
