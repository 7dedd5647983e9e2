"""Requests with which the program has not begun: they move as data, and begin once."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.errors import PeerError
from quicbaton.service.moving.stream_relay.stand_in import StandIn
from quicbaton.testing import Conditions, EndOptions, Pair, move
from tests.files.browser import Browser


class Counting:
    """An ASGI program that answers with what it got; where it began, by path."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["path"])
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await self._echo(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    async def _echo(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close"})


class NoTransmitter:
    """The pair sends by itself."""

    def transmit(self) -> None: ...
    def transmit_soon(self) -> None: ...
    def add_route(self, cid: bytes) -> None: ...
    def remove_route(self, cid: bytes) -> None: ...
    def ids_retired(self) -> None: ...


class Session:
    """A browser joined to the program."""

    def __init__(self) -> None:
        self.program = Counting()
        create = partial(
            AsgiProtocol, application=self.program, lifespan=Lifespan(self.program, "test")
        )
        self.pair = Pair(
            Conditions(delay_s=0.005),
            client=EndOptions(create=Browser),
            server=EndOptions(create=create),
        )
        self.pair.connect()
        self.browser: Any = self.pair.client.application

    @property
    def protocol(self) -> Any:
        return self.pair.server.application

    def arrives(self, *stream_ids: int) -> None:
        """Requests come, and no task has had its turn."""
        self.pair.run(lambda: set(stream_ids) <= set(self.protocol._unbegun), seconds=5)

    def move(self) -> None:
        move(self.pair.server)
        self.protocol.connection_made(NoTransmitter())

    async def end(self, *stream_ids: int) -> None:
        for _ in range(10_000):
            if self.browser.ended >= set(stream_ids):
                return
            self.pair.step()
            await asyncio.sleep(0)
        raise AssertionError("the answers do not come")


@pytest.mark.parametrize("moves", [1, 2])
async def test_they_move_whole_and_begin_at_the_last_owner(moves: int) -> None:
    session = Session()
    browser = session.browser
    whole = browser.request("POST", "/whole", body=b"x" * 1000)
    part = browser.request("POST", "/part", body=b"y" * 1000, ends=False)
    bare = browser.request("GET", "/bare")
    session.arrives(whole, part, bare)
    old = session.protocol
    for _ in range(moves):
        assert not session.protocol.running_streams()
        session.move()
    await asyncio.sleep(0)
    assert sorted(session.program.begun) == ["/bare", "/part", "/whole"]
    assert not old.may_begin(whole)
    session.browser._http.send_data(part, b"z" * 100_000, True)
    await session.end(whole, part, bare)
    assert browser.bodies[whole] == b"x" * 1000
    assert browser.bodies[part] == b"y" * 1000 + b"z" * 100_000
    assert browser.bodies.get(bare, b"") == b""
    assert len(session.program.begun) == 3


async def test_a_websocket_moves_whole_with_what_was_said_early() -> None:
    session = Session()
    browser = session.browser
    frames = Connection(ConnectionType.CLIENT)
    stream_id = browser._quic.get_next_available_stream_id()
    pseudo = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "https"}
    pseudo |= {":authority": "localhost", ":path": "/chat"}
    headers = [(name.encode(), value.encode()) for name, value in pseudo.items()]
    browser._http.send_headers(stream_id, headers)
    browser._http.send_data(stream_id, frames.send(TextMessage("early")), False)
    session.arrives(stream_id)
    session.pair.run(lambda: session.protocol._exchanges[stream_id].arrived().body, seconds=5)
    assert not session.protocol.running_streams()
    session.move()
    await session.end(stream_id)
    frames.receive_data(bytes(browser.bodies[stream_id]))
    assert next(iter(frames.events())) == TextMessage("early")
    assert session.program.begun == ["/chat"]


async def test_a_scope_is_the_same_before_and_after_a_move() -> None:
    session = Session()
    one = session.browser.request("GET", "/")
    await session.end(one)
    move(session.pair.server)
    two = session.browser.request("GET", "/")
    await session.end(two)
    before, after = session.program.scopes
    assert before == after
    assert before["extensions"]["tls"] == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": session.pair.server.connection.cipher_suite,
    }
    assert before["extensions"]["tls"]["cipher_suite"] in (0x1301, 0x1302, 0x1303)


async def test_a_request_that_has_begun_stays() -> None:
    session = Session()
    stream_id = session.browser.request("POST", "/", body=b"x", ends=False)
    session.arrives(stream_id)
    await asyncio.sleep(0)
    # It waits in its first receive(); what it did before, nobody knows.
    assert session.program.begun == ["/"]
    assert stream_id in session.protocol.running_streams()
    assert session.protocol.export_state() == b""


async def test_a_request_that_is_given_up_before_it_begins_does_so_where_it_is() -> None:
    session = Session()
    stream_id = session.browser.request("POST", "/", body=b"x", ends=False)
    session.arrives(stream_id)
    session.pair.client.connection.reset_stream(stream_id, 0x10C)
    session.pair.run(lambda: not session.protocol._unbegun, seconds=5)
    assert session.protocol.export_state() == b""
    await asyncio.sleep(0)
    assert session.program.begun == ["/"]


async def test_a_handoff_that_fails_begins_them_here() -> None:
    """Once, whether their tasks had their turns meanwhile or not."""
    session = Session()
    one = session.browser.request("GET", "/one")
    session.arrives(one)
    protocol, connection = session.protocol, session.pair.server.connection
    # As a handoff does it, and takes it back, for what it cannot move.
    stand_in = StandIn(connection, connection._state, [])
    protocol.use_connection(stand_in)
    await asyncio.sleep(0)
    assert session.program.begun == []
    two = session.browser.request("GET", "/two")
    protocol.use_connection(connection)
    session.arrives(one, two)
    protocol.use_connection(stand_in)
    protocol.use_connection(connection)
    await session.end(one, two)
    assert session.program.begun == ["/one", "/two"]


async def test_a_state_that_is_none_is_refused() -> None:
    session = Session()
    with pytest.raises(PeerError, match="not an ASGI server"):
        session.protocol.import_state(b"\xc1")
