"""Events in the life of a connection while a client uses it. Each scene is a coroutine function of
one `Stage`, and raises if a response differs from one without the event.

The move is proved twice: the service lists the connection at its new owner under its old name, and
has accepted no other; and the responses name the processes that made them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from tests.clients.matrix.driven import DrivenClient
from tests.clients.matrix.program import EARLY_BODY_BYTES, content
from tests.clients.matrix.relay import Relay
from tests.clients.matrix.service import Place, Service, until

_BODY_BYTES = 4_000_000
#: More than a stream's window, so that it cannot end before the program reads.
_UPLOAD_BYTES = 4_000_000
_SMALL_BYTES = 3_000
#: Small enough for the send buffer, so that the program is done with it: its connection can be
#: handed on and on.
_BUFFERED_BYTES = 450_000
_BYTES_PER_S = 120_000
#: A request of several packets, of which the first are let through.
_PATH_BYTES = 3_800
_PATH_BEFORE_BYTES = 600
_HANDOFFS = 10
_STREAMS = 8
_STREAM_BYTES = 600_000
_IDLE_S = 1.0
_ONE_COMMAND = "it makes all its requests at once and ends"

_Answers = TypeVar("_Answers")
_Result = TypeVar("_Result")


class Gap(Exception):  # noqa: N818 - no error: the client has no such thing
    """The client cannot do this; why."""


class Stage:
    """A client that has just started, the service, and the NAT between them."""

    def __init__(self, client: DrivenClient, service: Service, relay: Relay, accepted: int) -> None:
        self.client = client
        self.service = service
        self.relay = relay
        #: Connections that the service had accepted before the client came.
        self._accepted_before = accepted
        self._requests: list[asyncio.Task[Any]] = []

    def can(self, what: str) -> bool:
        return what in self.client.can

    def start(self, request: Coroutine[Any, Any, _Answers]) -> asyncio.Task[_Answers]:
        """A request, while which things happen."""
        task = asyncio.create_task(request)
        self._requests.append(task)
        return task

    async def clear(self) -> None:
        """End the requests that a failed scene has left."""
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)

    async def place(self) -> Place:
        """Where the client's connection is, once it is open. It must have no other."""

        async def look() -> Place | None:
            places = await self.service.places(self.relay.outside_ports)
            names = {place.name for place in places}
            assert len(names) <= 1, f"{len(names)} connections instead of one"
            # While it moves, both owners may name it: one was asked before, the other after.
            return places[0] if len(places) == 1 else None

        place: Place = await until(look, "a connection")
        return place

    async def hand_over(self) -> Place:
        """Let it change hands between the workers; where it is then."""
        source = await self.place()
        destination = await self.service.hand_over(source)

        async def moved() -> Place | None:
            places = await self.service.places(self.relay.outside_ports)
            return next((place for place in places if place.worker.pid == destination.pid), None)

        place: Place = await until(moved, "the connection at its new owner")
        assert place.name == source.name
        return place

    async def begin(self) -> Place:
        """A first small request; where its connection is."""
        (answer,) = await self.client.get(f"/bytes/{_SMALL_BYTES}")
        answer.assert_is(content(_SMALL_BYTES))
        place = await self.place()
        assert answer.pid == place.worker.pid
        return place

    async def ends_at(self, place: Place) -> None:
        """One more request is answered by the owner over the same connection."""
        if not self.can("one command"):
            (answer,) = await self.client.get(f"/bytes/{_SMALL_BYTES}")
            answer.assert_is(content(_SMALL_BYTES))
            last = await self.place()
            assert last.name == place.name, "over another connection"
            assert answer.pid == place.worker.pid, f"{answer.pid} answered, owner is {last.worker}"
        await self.has_connected_once()

    def has_new_workers(self) -> None:
        """They have accepted nobody, unless the client connects anew."""
        self._accepted_before = -1

    async def has_connected_once(self) -> None:
        assert await self.service.accepted() == self._accepted_before + 1, "it connected anew"


async def before_the_first_request(stage: Stage) -> None:
    """The connection moves while it is idle after its handshake; then come requests."""
    if stage.can("open"):
        await stage.client.open()
        place = await stage.hand_over()
        (answer,) = await stage.client.get(f"/bytes/{_BODY_BYTES}")
    else:
        # It asks as soon as it is connected: what it says after the handshake waits in the NAT.
        stage.relay.hold_after(0)
        request = stage.start(stage.client.get(f"/bytes/{_BODY_BYTES}"))
        place = await stage.hand_over()
        stage.relay.release()
        (answer,) = await request
    answer.assert_is(content(_BODY_BYTES))
    assert answer.pid == place.worker.pid
    await stage.ends_at(place)


async def in_the_headers(stage: Stage) -> None:
    """The connection moves when the first of a request's packets have come."""
    if not stage.can("one command"):
        await stage.begin()
    stage.relay.hold_after(_PATH_BEFORE_BYTES)
    # Letters that no Huffman code makes shorter (RFC 7541 Appendix B).
    path = "".join(Random(1).choices("XZ", k=_PATH_BYTES)) + "/end"
    request = stage.start(stage.client.get(f"/long/{path}"))
    await _while_running(request, stage.relay.holds.wait())
    place = await stage.hand_over()
    stage.relay.release()
    (answer,) = await request
    answer.assert_is(hashlib.sha256(path.encode()).hexdigest().encode())
    assert answer.pid == place.worker.pid
    await stage.ends_at(place)


async def in_an_upload(stage: Stage) -> None:
    """The connection moves while a program that reads slowly gets 4 MB."""
    gate = stage.service.gate()
    request = stage.start(stage.client.post(f"/hash/{gate}", _UPLOAD_BYTES))
    await _while_running(request, stage.service.under_way(gate))
    source = await stage.place()
    place = await stage.hand_over()
    stage.service.open_gate(gate)
    answer, sent = await request
    answer.assert_is(f"{sent} {_UPLOAD_BYTES}".encode())
    assert answer.pid == source.worker.pid, "the program went on where it was"
    await stage.ends_at(place)


async def in_a_download(stage: Stage) -> None:
    """The connection moves while a program writes 4 MB."""
    await _move_in_downloads(stage, 1, _BODY_BYTES)


async def eight_at_once(stage: Stage) -> None:
    """The connection moves with eight downloads in progress."""
    await _move_in_downloads(stage, _STREAMS, _STREAM_BYTES)


async def _move_in_downloads(stage: Stage, count: int, size: int) -> None:
    gate = stage.service.gate()
    paths = [f"/slow/{gate}/{size + n}" for n in range(count)]
    request = stage.start(stage.client.get(*paths))
    await _while_running(request, stage.service.under_way(gate, count))
    source = await stage.place()
    place = await stage.hand_over()
    stage.service.open_gate(gate)
    for n, answer in enumerate(await request):
        answer.assert_is(content(size + n))
        assert answer.pid == source.worker.pid
    await stage.ends_at(place)


async def ten_times(stage: Stage) -> None:
    """Ten handoffs during one download over a slow line."""
    stage.relay.slow_down(_BYTES_PER_S)
    request = stage.start(stage.client.get(f"/bytes/{_BUFFERED_BYTES}"))
    place = await stage.place()
    for _ in range(_HANDOFFS):
        place = await stage.hand_over()
        assert not request.done(), "it was over before the handoffs were"
    stage.relay.slow_down(0)
    (answer,) = await request
    answer.assert_is(content(_BUFFERED_BYTES))
    await stage.ends_at(place)


async def ten_times_running(stage: Stage) -> None:
    """Ten handoffs while a program writes: the processes between pass its stream on."""
    gate = stage.service.gate()
    request = stage.start(stage.client.get(f"/slow/{gate}/{_BODY_BYTES}"))
    await _while_running(request, stage.service.under_way(gate))
    source = place = await stage.place()
    for _ in range(_HANDOFFS):
        place = await stage.hand_over()
    stage.service.open_gate(gate)
    (answer,) = await request
    answer.assert_is(content(_BODY_BYTES))
    assert answer.pid == source.worker.pid
    await stage.ends_at(place)


async def reload(stage: Stage) -> None:
    """All workers are replaced by new ones in the middle of a download."""
    gate = stage.service.gate()
    request = stage.start(stage.client.get(f"/slow/{gate}/{_BODY_BYTES}"))
    await _while_running(request, stage.service.under_way(gate))
    before = await stage.place()
    reloading = stage.start(stage.service.reload())

    async def moved() -> Place | None:
        place = await stage.place()
        return place if place.worker.pid != before.worker.pid else None

    place = await _while_running(request, until(moved, "another owner"))
    assert place.name == before.name
    stage.service.open_gate(gate)
    (answer,) = await request
    answer.assert_is(content(_BODY_BYTES))
    assert answer.pid == before.worker.pid, "the program went on where it was"
    assert await reloading == []
    stage.has_new_workers()
    await stage.ends_at(place)


async def nat_rebinding(stage: Stage) -> None:
    """The NAT gives the client another port in the middle of a download; then the connection
    moves."""
    await _move_at_another_port(stage, moving=False)


async def own_port_change(stage: Stage) -> None:
    """The client goes on from another port and connection ID of its own accord; then the
    connection moves."""
    if not stage.can("move"):
        raise Gap("it stays at its port")
    await _move_at_another_port(stage, moving=True)


async def _move_at_another_port(stage: Stage, *, moving: bool) -> None:
    gate = stage.service.gate()
    request = stage.start(stage.client.get(f"/slow/{gate}/{_BODY_BYTES}", moving=moving))
    await _while_running(request, stage.service.under_way(gate))
    first = await stage.place()
    if not moving:
        await stage.relay.rebind()

    async def seen_elsewhere() -> bool:
        return (await stage.place()).client_port != first.client_port

    await _while_running(request, until(seen_elsewhere, "the new address to be validated"))
    place = await stage.hand_over()
    assert place.client_port == stage.relay.outside_ports[-1]
    stage.service.open_gate(gate)
    (answer,) = await request
    answer.assert_is(content(_BODY_BYTES))
    await stage.ends_at(place)


async def idle_then_moved(stage: Stage) -> None:
    """A request, a pause, a handoff, a pause, and the next request."""
    if stage.can("one command"):
        raise Gap(_ONE_COMMAND)
    await stage.begin()
    await asyncio.sleep(_IDLE_S)  # idle is what the scene is about
    place = await stage.hand_over()
    await asyncio.sleep(_IDLE_S)
    await stage.ends_at(place)


async def early_answer(stage: Stage) -> None:
    """An upload is refused with 413 before it is over, once its connection has moved; [the rest is
    dropped](asgi.md#an-upload-that-is-answered-before-it-is-over)."""
    gate = stage.service.gate()
    request = stage.start(stage.client.post(f"/early/{gate}", _UPLOAD_BYTES))
    await _while_running(request, stage.service.under_way(gate))
    await stage.hand_over()
    stage.service.open_gate(gate)
    answer, _ = await request
    answer.assert_is(content(EARLY_BODY_BYTES), status=413)
    await stage.has_connected_once()
    if not stage.can("one command"):
        # Over this connection or a new one: a client may end one whose upload it broke off.
        (answer,) = await stage.client.get(f"/bytes/{_SMALL_BYTES}")
        answer.assert_is(content(_SMALL_BYTES))


async def _while_running(request: asyncio.Task[Any], waiting: Awaitable[_Result]) -> _Result:
    """Wait for something in the middle of a request; raises what ended the request before."""
    wait = asyncio.ensure_future(waiting)
    await asyncio.wait({request, wait}, return_when=asyncio.FIRST_COMPLETED)
    if not wait.done():
        wait.cancel()
        raise AssertionError(f"the request ended before: {request.result()}")
    return await wait


#: Title of the column, and the scene.
SCENES: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "before the first request": before_the_first_request,
    "in the headers": in_the_headers,
    "in an upload": in_an_upload,
    "in a download": in_a_download,
    "in eight at once": eight_at_once,
    "ten in a row": ten_times,
    "ten in a row, program running": ten_times_running,
    "idle, then next request": idle_then_moved,
    "early answer": early_answer,
    "NAT rebinding": nat_rebinding,
    "port change of its own": own_port_change,
    "reload": reload,
}
