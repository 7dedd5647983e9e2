"""The access log and the figures of a protocol class that speaks HTTP/3 by itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quicbaton.asyncio.access import WatchedRequests
from quicbaton.asyncio.requests import RequestCount
from quicbaton.http3 import H3Connection
from quicbaton.limits import MAX_AWAITED_ANSWERS
from quicbaton.testing import Conditions, EndOptions, Pair
from tests.cli.command_line import wait_for
from tests.files.browser import Browser
from tests.supervisor.scraping import scrape
from tests.supervisor.service_home import Service, ServiceHome, service_home

#: Answers in two pieces; `/silent` never.
_PROGRAM = """
from aioquic.quic.events import ProtocolNegotiated
from quicbaton.asyncio import QuicConnectionProtocol
from quicbaton.http3 import H3Connection
from quicbaton.http3.events import HeadersReceived


class Site(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if self._http is None:
            return
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self.answer(http_event.stream_id, dict(http_event.headers)[b":path"])

    def answer(self, stream_id, path):
        status = b"200" if path == b"/" else b"404"
        self._http.send_headers(stream_id, [(b":status", b"103"), (b"link", b"</x>")])
        self._http.send_headers(stream_id, [(b":status", status)])
        self._http.send_data(stream_id, b"12345", False)
        self._http.send_data(stream_id, b"678", True)

    def export_state(self):
        return b""

    def import_state(self, data):
        pass
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        (tmp_path / "site_program.py").write_text(_PROGRAM)
        yield made


@pytest.mark.process
def test_a_protocol_s_requests_are_lines_and_are_counted(home: ServiceHome) -> None:
    where = ("--host", "127.0.0.1", "--port", "0", "--json", "--metrics", "0", "--workers", "1")
    service = Service(home, home.start("quicbaton", "serve", "site_program:Site", *where))
    url = service.wait_for("metrics")["url"]
    for path in ("/", "/missing?q=1"):
        address = f"https://localhost:{service.port}{path}"
        home.run("get", address, "--ca", home.ca, "-o", home.path / "copy")
    answers = [
        f'quicbaton_responses_total{{http_version="3",node="0",status="{status}",worker="0"}}'
        for status in ("2xx", "4xx")
    ]
    wait_for(lambda: [scrape(url).get(name) for name in answers], lambda found: found == [1, 1])
    assert scrape(url)['quicbaton_requests_total{node="0",worker="0"}'] == 2
    service.stop()
    assert service.process.stderr is not None
    log = service.process.stderr.read()
    for said in (r'"GET / HTTP/3" 200 8', r'"GET /missing\?q=1 HTTP/3" 404 8'):
        pattern = rf"INFO \[0\] 127\.0\.0\.1:\d+ - {said} bytes \d+\.\d ms [0-9a-f]{{24}}$"
        assert re.search(pattern, log, re.MULTILINE)


class Stage:
    """A browser, and a server's HTTP/3 connection that is watched."""

    def __init__(self) -> None:
        self.pair = Pair(Conditions(delay_s=0.005), client=EndOptions(create=Browser))
        self.pair.connect()
        self.browser: Any = self.pair.client.application
        server = self.pair.server
        self.count = RequestCount()
        self.http = server.http = H3Connection(server.connection)
        self.http.watch = WatchedRequests(lambda: server.connection, self.count)

    def run(self) -> None:
        self.pair.run(seconds=0.1)
        for event in self.pair.server.take_events():
            self.http.handle_event(event)


async def test_an_answer_is_one_line_with_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quicbaton.access")
    stage = Stage()
    for method, ended, sent in (("GET", False, 5), ("HEAD", False, 0), ("GET", True, 0)):
        caplog.clear()
        stream = stage.browser.request(method, "/a")
        stage.run()
        stage.http.send_headers(stream, [(b":status", b"200")], ended)
        if not ended:
            assert not caplog.records
            stage.http.send_data(stream, b"12345", False)
            stage.http.send_headers(stream, [(b"digest", b"x")], True)  # trailers
        (record,) = caplog.records
        assert record.args[1:] == (method, "/a", "3", 200)  # type: ignore[index]
        assert record.sent_bytes == sent  # type: ignore[attr-defined]
    assert (stage.count.total, stage.count.answered) == (3, {("3", 200): 3})


async def test_a_request_that_its_client_gives_up_has_no_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "quicbaton.access")
    stage = Stage()
    stream = stage.browser.request("GET", "/a")
    stage.run()
    stage.pair.client.connection.stop_stream(stream, 0x10C)
    stage.run()
    (record,) = caplog.records
    assert record.args[1:] == ("GET", "/a", "3", 0)  # type: ignore[index]
    assert stage.count.by_class() == {"3 none": 1}


async def test_requests_that_are_never_answered_are_bounded() -> None:
    stage = Stage()
    watch = stage.http.watch
    assert watch is not None
    for number in range(3 * MAX_AWAITED_ANSWERS):
        watch.on_request(4 * number, [(b":method", b"GET"), (b":path", b"/")])
    assert stage.count.by_class() == {"3 none": 2 * MAX_AWAITED_ANSWERS}
