"""The protocol between the matrix and each client: a JSON line in, a JSON line out.

Only the standard library is imported: a client may run where quicbaton is not installed. The first
line is the client's: {"client": its name and version, "can": [...]}, where "can" lists some of

    "open"         connect without asking for anything
    "move"         go on from another local port
    "one command"  nothing else on the same connection

Then come commands:

    {"do": "open"}
    {"do": "get", "urls": [...], "moving": false}  all at once; if `moving`, go on from another
                                                   local port half a second later
    {"do": "post", "url": ..., "size": n}          n random bytes

Each is answered with {"answers": [Answer...], "sent": SHA-256 of the posted bytes}, or with
{"error": ...}. The client uses one connection for all of it if it can. The end of stdin is the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any


class Answer:
    """A response as it comes in."""

    def __init__(self) -> None:
        self.status = 0
        self.pid = 0
        self.size = 0
        self.error = ""
        self._sha256 = hashlib.sha256()
        self._begin = b""

    def take(self, data: bytes) -> None:
        """A piece of the body."""
        self.size += len(data)
        self._sha256.update(data)
        if len(self._begin) < 200:
            self._begin += data[:200]

    def take_field(self, name: str, value: str) -> None:
        """A header field."""
        if name == ":status":
            self.status = int(value)
        elif name.lower() == "x-pid":
            self.pid = int(value)

    def plain(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "pid": self.pid,
            "size": self.size,
            "sha256": self._sha256.hexdigest(),
            "text": self._begin.decode("latin-1") if self.size <= 200 else "",
            "error": self.error,
        }


class Client:
    """A client that can be driven; what it cannot do raises NotImplementedError."""

    name = ""
    can: Sequence[str] = ()

    def __init__(self, host: str, port: int, authority: str) -> None:
        self.host = host
        self.port = port
        self.authority = authority

    async def open(self) -> None:
        raise NotImplementedError("it connects with its first request")

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        raise NotImplementedError

    async def upload(self, url: str, size: int) -> tuple[dict[str, Any], str]:
        """Post so many random bytes: the answer, plain, and their SHA-256."""
        body = os.urandom(size)
        answer = await self.post(url, body)
        return answer.plain(), hashlib.sha256(body).hexdigest()

    async def post(self, url: str, body: bytes) -> Answer:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def converse(client_type: type[Client]) -> None:
    """Be driven by stdin until that ends; the arguments are HOST PORT AUTHORITY."""
    host, port, authority = sys.argv[1:]
    asyncio.run(_converse(client_type(host, int(port), authority)))


async def _converse(client: Client) -> None:
    _say({"client": client.name, "can": list(client.can)})
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            _say(await _obey(client, json.loads(line)))
        except Exception as error:
            traceback.print_exc()
            _say({"error": f"{type(error).__name__}: {error}"})
    await client.close()


async def _obey(client: Client, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "open":
            await client.open()
            return {}
        case "get":
            answers = await client.get(command["urls"], command["moving"])
            return {"answers": [answer.plain() for answer in answers]}
        case "post":
            answer, sent = await client.upload(command["url"], command["size"])
            return {"answers": [answer], "sent": sent}
        case other:
            raise ValueError(f"no such command: {other}")


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)
