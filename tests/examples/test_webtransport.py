"""examples/webtransport, as its README says, through a reload; in browsers: `make pages`."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.asgi.webtransport_client import WebTransportClient, webtransport_client
from tests.examples.example_service import Example, example

pytestmark = pytest.mark.process


@pytest.fixture
def webtransport(tmp_path: Path) -> Iterator[Example]:
    with example("webtransport", tmp_path) as started:
        yield started


async def echo(client: WebTransportClient, body: bytes) -> None:
    stream = client.open_stream()
    client.write(stream, body, ended=True)
    assert await client.answer(stream) == body


async def session_pid(client: WebTransportClient) -> int:
    """The process before a datagram that came back."""
    before = len(client.datagrams)
    while len(client.datagrams) == before:
        client.send_datagram(b"who")  # again, since one can be lost
        await asyncio.sleep(0.05)
    pid, _, data = client.datagrams[-1].partition(b" ")
    assert data == b"who"
    return int(pid)


async def test_a_session_goes_on_through_a_reload(webtransport: Example) -> None:
    random = Random(1)
    whole = random.randbytes(200_000)
    async with webtransport_client(webtransport.service.port) as client:
        assert await client.open("/session") == 200
        half = client.open_stream()
        client.write(half, whole[:100_000])
        await echo(client, random.randbytes(50_000))
        pid = await session_pid(client)
        before, _ = await asyncio.to_thread(webtransport.reload)
        assert pid in before
        client.write(half, whole[100_000:], ended=True)
        assert await client.answer(half) == whole
        await echo(client, random.randbytes(50_000))
        assert await session_pid(client) == pid


def test_the_page_is_told_the_hash_of_the_certificate(webtransport: Example) -> None:
    trusted = ssl.create_default_context(cafile=str(webtransport.home.ca))
    with httpx.Client(verify=trusted, trust_env=False) as client:
        assert client.get(webtransport.url("")).text.startswith("<!doctype html>")
        told = client.get(webtransport.url("process")).json()
    der = ssl.PEM_cert_to_DER_cert(webtransport.home.ca.read_text())
    assert told["certificate"] == hashlib.sha256(der).hexdigest()
    assert told["pid"] in webtransport.service.pids()
