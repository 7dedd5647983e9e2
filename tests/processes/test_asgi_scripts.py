"""An ASGI program and its client see the same whether their connection moves or not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.processes.asgi_script import Step, is_whole, make_script
from tests.processes.exchanging_client import Client, Exchange, client_of
from tests.processes.harness import World, until
from tests.processes.moving_server import content

pytestmark = pytest.mark.process

_SCRIPTS = 40
_SEEDS = [int(seed) for seed in os.environ.get("QUICBATON_SEED", "1 2 3").split()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "notes").touch()
    return folder


@pytest.fixture
def world_type(folder: Path) -> type[World]:
    class AsgiWorld(World):
        program = "tests.processes.asgi_server"
        environment = {**os.environ, "NOTES": str(folder / "notes")}  # noqa: RUF012

    return AsgiWorld


class Play:
    """One script, and a client of a pace of its own."""

    def __init__(self, seed: int, number: int) -> None:
        random = Random(1000 * seed + number)
        self._number = number
        self._script: list[Step] = make_script(random)
        self._upload_bytes = random.choice([0, 10, 100_000, 1_000_000])
        self._pause_s = random.choice([0.0, 0.0, 0.1])

    async def run(self, client: Client, folder: Path, round_name: str) -> Any:
        """The transcripts of both sides."""
        transcript = folder / f"{round_name}-{self._number}"
        fields = (b"script", json.dumps(self._script).encode()), (b"te", b"trailers")
        exchange = client.ask(f"/script/{transcript.name}", *fields, method=b"POST")
        uploading = asyncio.create_task(self._upload(client, exchange))
        if self._pause_s:
            client.pause(exchange)
            await asyncio.sleep(self._pause_s)
            client.resume(exchange)
        await exchange.ended.wait()
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        await until(transcript.exists, "a transcript")
        seen = json.loads(transcript.read_text())
        if not is_whole(self._script):
            # How much of it arrives before the reset is chance.
            return seen, exchange.reset
        heads = [head | {b"date": b""} for head in exchange.heads]
        return seen, heads, hashlib.sha256(exchange.body).hexdigest(), exchange.reset

    async def _upload(self, client: Client, exchange: Exchange) -> None:
        body = content(0, self._upload_bytes + 1)
        await client.upload(exchange, body)


@pytest.mark.parametrize("seed", _SEEDS)
async def test_scripts_of_messages_look_the_same_while_the_connection_moves(
    world: World, folder: Path, seed: int
) -> None:
    plays = [Play(seed, number) for number in range(_SCRIPTS)]
    async with world:
        one = await world.start()
        async with client_of(world, await one.port()) as client:
            expected = [await play.run(client, folder, "still") for play in plays]
            two = await world.start("join", one)
            connection = await one.the_connection()
            playing = asyncio.create_task(_all(plays, client, folder))
            moves, source, destination = 0, one, two
            while not playing.done():
                answer = await source.hand_over(connection, destination)
                assert answer.ok or answer.code in ("cutover_pending", "streams_relayed"), answer
                await asyncio.sleep(0.02)
                if answer.ok:
                    moves, source, destination = moves + 1, destination, source
            assert moves >= 4
            for number, seen in enumerate(await playing):
                assert seen == expected[number], f"script {number} of seed {seed}"


async def _all(plays: list[Play], client: Client, folder: Path) -> list[Any]:
    """A few at a time."""
    seen: list[Any] = []
    for start in range(0, len(plays), 5):
        some = plays[start : start + 5]
        seen += await asyncio.gather(*(play.run(client, folder, "moved") for play in some))
    return seen
