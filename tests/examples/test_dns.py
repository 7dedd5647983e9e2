"""examples/dns, as its README says, through a reload: by dnspython's client, and by raw streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.quic
import dns.rcode
import pytest
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived

from tests.examples.example_service import Example, example

pytestmark = pytest.mark.process


@pytest.fixture
def doq(tmp_path: Path) -> Iterator[Example]:
    with example("dns", tmp_path) as started:
        yield started


async def test_answers_go_on_over_one_connection_through_a_reload(doq: Example) -> None:
    async with dns.quic.AsyncioQuicManager(
        verify_mode=str(doq.home.ca), server_name="localhost"
    ) as manager:
        connection = manager.connect("127.0.0.1", doq.service.port)

        async def ask(name: str, kind: str) -> dns.message.Message:
            query = dns.message.make_query(name, kind)
            return await dns.asyncquery.quic(query, "", timeout=30, connection=connection)

        async def pid() -> int:
            (record,) = (await ask("pid.example", "TXT")).answer[0]
            return int(record.strings[0])

        (record,) = (await ask("www.example", "AAAA")).answer[0]
        assert record.address == "2001:db8::80"
        assert (await ask("nobody.example", "A")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask("example.org", "A")).rcode() == dns.rcode.REFUSED
        old = await pid()
        before, after = await asyncio.to_thread(doq.reload)
        assert old in before
        assert await pid() in after
        (record,) = (await ask("www.example", "A")).answer[0]
        assert record.address == "192.0.2.80"


class RawClient(QuicConnectionProtocol):
    """The bytes on each stream, and how the connection ended."""

    def __init__(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args, **kwargs)
        self.answers: dict[int, asyncio.Future[bytes]] = {}
        self.closed: asyncio.Future[int] = self._loop.create_future()
        self._received: dict[int, bytes] = {}

    def write(self, stream_id: int, data: bytes, *, ended: bool = False) -> None:
        self.answers.setdefault(stream_id, self._loop.create_future())
        self._quic.send_stream_data(stream_id, data, ended)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            received = self._received.get(event.stream_id, b"") + event.data
            self._received[event.stream_id] = received
            if event.end_stream:
                self.answers[event.stream_id].set_result(received)
        elif isinstance(event, ConnectionTerminated):
            self.closed.set_result(event.error_code)


def raw_client(doq: Example):  # type: ignore[no-untyped-def]
    configuration = QuicConfiguration(alpn_protocols=["doq"], cafile=str(doq.home.ca))
    return connect(
        "localhost", doq.service.port, configuration=configuration, create_protocol=RawClient
    )


async def test_half_a_query_moves(doq: Example) -> None:
    asked = dns.message.make_query("www.example", "A", id=0)
    wire = asked.to_wire(prepend_length=True)
    async with raw_client(doq) as client:
        client.write(0, wire[:20])
        client.write(4, wire, ended=True)
        first = await asyncio.wait_for(client.answers[4], 30)
        await asyncio.to_thread(doq.reload)
        client.write(0, wire[20:], ended=True)
        assert await asyncio.wait_for(client.answers[0], 30) == first
        assert asked.is_response(dns.message.from_wire(first[2:]))


async def test_what_is_no_query_closes_the_connection(doq: Example) -> None:
    garbage = [(0, b"\x00\x03abc"), (0, b"\x00\x00"), (0, b""), (0, b"\xff\xffabc")]
    with_id = dns.message.make_query("www.example", "A", id=1).to_wire(prepend_length=True)
    others = [(0, with_id), (0, bytes(65_538)), (2, b"abc")]
    for stream_id, data in garbage + others:
        async with raw_client(doq) as client:
            client.write(stream_id, data, ended=True)
            # RFC 9250 §4.3.3: DOQ_PROTOCOL_ERROR.
            assert await asyncio.wait_for(client.closed, 30) == 2, data[:10]
