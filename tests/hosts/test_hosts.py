"""The hosts themselves: the differences between two of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quicbaton.routing.quic_lb import IdLayout, Place
from tests.hosts.lossy_link import Condition, Note
from tests.hosts.network import Host, Network
from tests.hosts.sites import CLIENT, CUT, SHARED, A, B
from tests.processes.harness import until

pytestmark = pytest.mark.process

_WHO_AM_I = """
import json, socket, time
from quicbaton.service.host import boot_id
print(json.dumps([socket.gethostname(), boot_id().hex(), time.monotonic(), time.time()]))
"""
_LISTEN = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 5000))
print("ready", flush=True)
while True:
    data, sender = sock.recvfrom(2000)
    sock.sendto(sys.argv[2].encode(), sender)
"""
#: Waits so many seconds.
_ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[3]))
sock.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 5000))
try:
    print(sock.recv(2000).decode())
except TimeoutError:
    print("nothing")
"""


async def output(host: Host, *arguments: str) -> str:
    process = await host.start(sys.executable, "-c", *arguments, stdout=subprocess.PIPE)
    text, _ = await process.communicate()
    assert process.returncode == 0
    return text.decode().strip()


async def listen(host: Host, address: str) -> None:
    """Answer everything that comes to port 5000 with the host's name."""
    process = await host.start(
        sys.executable, "-c", _LISTEN, address, host.name, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"


async def test_hosts_have_names_boots_and_clocks_of_their_own(tmp_path: Path, seed: str) -> None:
    async with Network(tmp_path, seed) as network:
        a = await network.add("a", A)
        b = await network.add("b", B, clock_ahead_s=3600)
        await b.set_wall_clock(-3600)
        facts: list[list[Any]] = [json.loads(await output(one, _WHO_AM_I)) for one in (a, b)]
        assert [one[0] for one in facts] == ["a", "b"]
        assert facts[0][1] != facts[1][1]
        assert 3600 <= facts[1][2] - facts[0][2] < 3660
        assert -3600 <= facts[1][3] - facts[0][3] < -3540
        assert abs(facts[0][3] - time.time()) < 60


async def test_a_shared_address_is_balanced_by_connection_id(tmp_path: Path, seed: str) -> None:
    layout = IdLayout()
    ids = [layout.encode(Place(node, 0), bytes(9)) for node in (1, 2)]
    packets = [(b"\x40" + cid + bytes(30)).hex() for cid in ids]
    async with Network(tmp_path, seed) as network:
        client = await network.add("client", CLIENT)
        a = await network.add("a", A, shared=[SHARED])
        b = await network.add("b", B, shared=[SHARED])
        await network.connect()
        await network.balance(SHARED, {1: a, 2: b}, fallback=b)
        await listen(a, SHARED)
        await listen(b, SHARED)
        assert await output(client, _ASK, SHARED, packets[0], "60") == "a"
        assert await output(client, _ASK, SHARED, packets[1], "60") == "b"
        unroutable = (b"\x40" + bytes((0xE0,)) + bytes(40)).hex()
        assert await output(client, _ASK, SHARED, unroutable, "60") == "b"
        receivers = [note.receiver for note in await network.notes() if note.sender == "client"]
        assert receivers == ["a", "b", "b"]


async def test_a_cut_way_carries_nothing_until_it_is_mended(tmp_path: Path, seed: str) -> None:
    async with Network(tmp_path, seed) as network:
        client = await network.add("client", CLIENT)
        a = await network.add("a", A)
        await network.connect()
        await listen(a, A)
        await network.way(a, client, CUT)
        assert await output(client, _ASK, A, "00", "0.3") == "nothing"

        async def both() -> list[Note]:
            notes = await network.notes()
            return notes if len(notes) == 2 else []

        notes = await until(both, "question and answer")
        assert [(note.sender, note.lost) for note in notes] == [("client", False), ("a", True)]
        await network.way(a, client, Condition())
        assert await output(client, _ASK, A, "00", "60") == "a"
