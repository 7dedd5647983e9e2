"""A reload in the middle of requests whose handlers are coroutines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.aioquic_client import client_of, come
from tests.supervisor.service_home import Service, ServiceHome, is_alive

pytestmark = pytest.mark.process

#: Says which process answers: at once, or a line every so often from a coroutine, until there is a
#: file `enough`.
PROGRAM = textwrap.dedent(
    """
    import asyncio
    import os

    from aioquic.h3.events import HeadersReceived
    from aioquic.quic.events import ProtocolNegotiated

    from quicbaton.asyncio import QuicConnectionProtocol
    from quicbaton.http3 import H3Connection


    class Lines(QuicConnectionProtocol):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._running = {}

        def running_streams(self):
            return list(self._running)

        def export_state(self):
            return b""

        def quic_event_received(self, event):
            if isinstance(event, ProtocolNegotiated):
                self._http = H3Connection(self._quic)
            for http_event in self._http.handle_event(event) if self._http else ():
                if isinstance(http_event, HeadersReceived):
                    self._answer(http_event.stream_id, dict(http_event.headers)[b":path"])

        def _answer(self, stream_id, path):
            self._http.send_headers(stream_id, [(b":status", b"200")])
            if path == b"/pid":
                self._http.send_data(stream_id, b"%d" % os.getpid(), True)
            else:
                lines = int(path.rpartition(b"/")[2])
                self._running[stream_id] = asyncio.create_task(self._write(stream_id, lines))

        async def _write(self, stream_id, lines):
            for number in range(lines):
                self._http.send_data(stream_id, b"%d %d\\n" % (os.getpid(), number), False)
                self.transmit()
                await asyncio.sleep(0.1)
                if os.path.exists("enough"):
                    break
            self._http.send_data(stream_id, b"", True)
            del self._running[stream_id]
            self.transmit()
    """
)


def service_of_lines(home: ServiceHome, *options: str, port: int = 0) -> Service:
    (home.path / "lines.py").write_text(PROGRAM)
    return home.service(1, "--app", "lines:Lines", *options, port=port)


async def next_supervisor(home: ServiceHome, service: Service, *options: str) -> Service:
    """Kill a supervisor, and start the next one."""
    service.process.kill()
    await asyncio.to_thread(service.process.wait)
    return await asyncio.to_thread(service_of_lines, home, *options, port=service.port)


async def reload(home: ServiceHome, service: Service, *options: str) -> dict[str, Any]:
    """In a thread: a command runs an event loop of its own."""
    arguments = ("reload", str(service.port), *options, "--json")
    done = await asyncio.to_thread(home.run, *arguments)
    assert done.returncode == 0, done.stderr
    return {"output": done.stdout}


async def test_a_coroutine_goes_on_at_the_old_worker_while_the_new_one_answers(
    home: ServiceHome,
) -> None:
    service = service_of_lines(home)
    (old,) = service.pids()
    enough = home.path / "enough"
    async with client_of(home, service.port) as client:
        slow = client.request("/lines/100000")
        await come(lambda: client.bodies.get(slow))
        reloading = asyncio.create_task(reload(home, service))
        # The connection is at the new worker long before the coroutine has ended.
        while True:
            asked = client.request("/pid")
            await come(lambda asked=asked: asked in client.ended)
            if int(client.bodies[asked]) != old:
                break
        # The reload does not wait for it, and nobody is asked twice.
        told = await reloading
        assert f"requests of 1 go on in pid {old}" in told["output"]
        listed = await asyncio.to_thread(home.json, "ps", str(service.port))
        assert len(listed["connections"]) == 1
        written = len(client.bodies[slow])
        await come(lambda: len(client.bodies[slow]) > written)
        assert slow not in client.ended
        assert Path(f"/proc/{old}").exists()
        enough.touch()
        await come(lambda: slow in client.ended)
        lines = bytes(client.bodies[slow]).decode().splitlines()
        assert lines == [f"{old} {number}" for number in range(len(lines))]
        assert client.resets == {}
        # Then it ends, and is not restarted.
        await come(lambda: not Path(f"/proc/{old}").exists())
    assert old not in service.pids()


async def test_a_worker_that_lingers_is_nobodys_heir(home: ServiceHome) -> None:
    """It has no port any more: when its successor dies, a new worker comes."""
    service = service_of_lines(home)
    (old,) = service.pids()
    async with client_of(home, service.port) as client:
        slow = client.request("/lines/100000")
        await come(lambda: client.bodies.get(slow))
        await reload(home, service)
        (new,) = await asyncio.to_thread(service.pids)
        os.kill(new, signal.SIGKILL)
        await come(lambda: not Path(f"/proc/{old}").exists())
        while (newest := await asyncio.to_thread(service.pids)) in ([new], [0]):
            pass
        assert newest != [old]
    async with client_of(home, service.port) as client:
        asked = client.request("/pid")
        await come(lambda: asked in client.ended)
        assert [int(client.bodies[asked])] == await asyncio.to_thread(service.pids)


@pytest.mark.parametrize("adopted", [False, True])
async def test_an_old_worker_that_hangs_is_killed_and_its_requests_are_reset(
    home: ServiceHome, adopted: bool
) -> None:
    silence = ("--silence", "3")
    service = service_of_lines(home, *silence)
    (old,) = service.pids()
    async with client_of(home, service.port) as client:
        slow = client.request("/lines/100000")
        await come(lambda: client.bodies.get(slow))
        await reload(home, service)
        if adopted:
            service = await next_supervisor(home, service, *silence)
            found = [event for event in service.events if event["event"] == "adopted"]
            assert old in [event["pid"] for event in found]
        (new,) = await asyncio.to_thread(service.pids)
        assert new != old
        # It has its time again whenever it answers.
        os.kill(old, signal.SIGSTOP)
        said = await asyncio.to_thread(service.wait_for, "worker_silent")
        assert said["pid"] == old
        await come(lambda: slow in client.resets)
        assert client.resets == {slow: 0x102}
        await come(lambda: not is_alive(old))
        asked = client.request("/pid")
        await come(lambda: asked in client.ended)
        assert int(client.bodies[asked]) == new
        assert client.terminated is None
        await come(lambda: not list(service.control.parent.glob("*.lingering")))


async def test_an_old_worker_has_the_grace_when_the_next_supervisor_stops(
    home: ServiceHome,
) -> None:
    service = service_of_lines(home)
    (old,) = service.pids()
    async with client_of(home, service.port) as client:
        slow = client.request("/lines/100000")
        await come(lambda: client.bodies.get(slow))
        await reload(home, service)
        again = await next_supervisor(home, service)
        stopping = asyncio.create_task(
            asyncio.to_thread(home.run, "stop", str(again.port), "--grace", "60", "--json")
        )
        # The workers have heard of it.
        await come(client.goaways)
        written = len(client.bodies[slow])
        await come(lambda: len(client.bodies[slow]) > written)
        (home.path / "enough").touch()
        await come(lambda: slow in client.ended)
        assert client.resets == {}
        stopped = await stopping
        assert stopped.returncode == 0, stopped.stderr
    assert not is_alive(old)


async def test_a_service_stops_though_requests_go_on_in_an_old_worker(home: ServiceHome) -> None:
    service = service_of_lines(home)
    (old,) = service.pids()
    async with client_of(home, service.port) as client:
        slow = client.request("/lines/100000")
        await come(lambda: client.bodies.get(slow))
        await reload(home, service)
        stopped = await asyncio.to_thread(
            home.run, "stop", str(service.port), "--grace", "0.5", "--json"
        )
        assert stopped.returncode == 0, stopped.stderr
    assert not Path(f"/proc/{old}").exists()


async def test_grace_bounds_the_wait_and_what_is_cut_is_listed(home: ServiceHome) -> None:
    service = service_of_lines(home)
    async with client_of(home, service.port) as client:
        slow = client.request("/lines/100000")
        await come(lambda: client.bodies.get(slow))
        output = (await reload(home, service, "--grace", "5"))["output"]
        await come(lambda: slow in client.resets)
        # That request alone: the connection lives on.
        assert client.resets == {slow: 0x10C}
        asked = client.request("/pid")
        await come(lambda: asked in client.ended)
        assert client.terminated is None
    assert "1 cut" in output
    events = [json.loads(line) for line in output.splitlines()]
    # What it waits for is said meanwhile.
    waits = [event for event in events if event["event"] == "waiting"]
    assert "requests still run on streams 0" in waits[0]["message"]
    (step,) = [event for event in events if event["event"] == "worker"]
    assert (step["phase"], step["moved"], step["cut"]) == ("done", 1, 1)
    assert "requests still run on streams 0" in output
