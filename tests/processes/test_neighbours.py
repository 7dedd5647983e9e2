"""Innocent clients of a server under attack: one client cannot hurt another.

The attacks are those of `docs/security.md`, by `tests.clients.hostile` in a process of its own,
against `quicbaton serve`. Beside each are four libcurls, of which one asks for a small file again
and again, one downloads again and again, one uploads, and one downloads at a limited rate; and two
connections of aioquic, of which one talks in a WebTransport session and one is idle. The benchmark
`hostile` measures how long they wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.file_server import NEIGHBOURHOOD, FileServer
from tests.clients.hostile import ATTACKS, Result
from tests.depth import deep
from tests.processes.attacker import resident_bytes

pytestmark = pytest.mark.process

_GUARD_S = 120.0
_DOWNLOAD_BYTES = deep(1_000_000, 2_000_000)
_PACKETS = 1500
#: Each of the clients has many answers in that time; what they load and send is most of what such
#: a test costs.
_SECONDS = deep(0.5, 3.0)
#: A limit takes as many seconds to reach as the machine is busy.
_LIMITED_SECONDS = 60.0
#: What one attack may make the server hold: a connection's budget, or the handshakes of `_PACKETS`
#: Initials, each of them 60 KB.
_MEMORY_BYTES = 100 << 20

#: How the attacker's connection ends, where a limit ends it.
_ENDS = {
    "rapid_reset": {"application 0x107"},
    "stopped_requests": {"application 0x107"},
    "dynamic_table": {"application 0x201"},
    "huffman_bomb": {"application 0x200"},
    "gapped_stream": {"transport 0x1"},
    "crypto_hoarding": {"transport 0xd"},
    "new_connection_ids": {"transport 0x9"},
    "acks_of_the_future": {"transport 0xa"},
    "optimistic_acks": {"transport 0xa", "reset"},
    "ack_scans": {"transport 0xa", "reset"},
    # Where the server has acknowledged one before the next it is none: RFC 9001 §6.1.
    "key_updates": {"transport 0xe", ""},
}


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[FileServer, dict[str, str]]]:
    files = folder / "files"
    files.mkdir()
    hashes = {}
    for name, size in (("small", 1024), ("body", _DOWNLOAD_BYTES), ("large", 20_000_000)):
        content = os.urandom(size)
        (files / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    with FileServer(folder, files, app=NEIGHBOURHOOD) as server:
        yield server, hashes


async def _run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(_GUARD_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output


@asynccontextmanager
async def _beside(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def _ask(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    found: dict[str, Any] = json.loads(await process.stdout.readline())
    return found


@pytest.mark.parametrize("attack", ATTACKS)
async def test_neighbours_of_an_attack_are_served(attack: str, tmp_path: Path) -> None:
    seconds = _LIMITED_SECONDS if attack in _ENDS else _SECONDS
    async with AsyncExitStack() as stack:
        server, hashes = stack.enter_context(_serving(tmp_path))
        ca = str(server.certificate)
        url = f"https://localhost:{server.port}/body"
        port = str(server.port)
        curls = await stack.enter_async_context(
            _beside("bench.innocents", port, ca, hashes["small"], hashes["body"])
        )
        others = await stack.enter_async_context(_beside("bench.bystanders", port))
        before = resident_bytes(server.pid)
        download, output = await asyncio.gather(
            _run("demo.curl", url, "--ca", ca, "--rate", "2000000"),
            _run(
                *("tests.clients.hostile", str(server.port), attack),
                *("--packets", str(_PACKETS), "--seconds", f"{seconds:g}"),
            ),
        )
        result = msgspec.json.decode(output, type=Result)
        # Byte for byte, over the connections that they began on.
        outcome: dict[str, Any] = json.loads(download.splitlines()[-1])
        assert outcome["sha256"] == hashes["body"], outcome["error"]
        for process, counted in ((curls, ("requests", "uploads")), (others, ("echoes",))):
            found = await _ask(process)
            assert found["broken"] == []
            assert all(found[name] > 0 for name in counted), found
        assert resident_bytes(server.pid) - before < _MEMORY_BYTES
        assert result.largest_ratio <= 3  # RFC 9000 §8.1
        if attack in _ENDS:
            assert result.closed in _ENDS[attack], result
