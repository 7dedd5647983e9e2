"""The server process of tests about an ASGI program's requests.

GET /note/NAME      notes in the file `NOTES` of the environment that it began; answers its pid
POST /note/NAME     the same, and the bytes that came
GET /slow/N/MS      N bytes of `content`, written over MS milliseconds
GET /file/N         N bytes of `content`, as a file
POST /script/NAME   runs the `asgi_script` in the field `script`; its transcript is a file NAME
"""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from quicbaton.asgi import AsgiProtocol, Lifespan, whole_disk
from tests.processes import moving_server
from tests.processes.asgi_script import run_script
from tests.processes.moving_server import content

_NOTES = Path(os.environ["NOTES"])
_STEPS = 50


async def application(scope: Any, receive: Any, send: Any) -> None:
    kind, *arguments = scope["path"].strip("/").split("/")
    if kind == "note":
        with _NOTES.open("a") as notes:
            notes.write(arguments[0] + "\n")
    if kind == "script":
        script = json.loads(dict(scope["headers"])[b"script"])
        await run_script(script, receive, send, _NOTES.with_name(arguments[0]))
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    while kind == "file" and not set(arguments[1:]) <= set(_NOTES.read_text().split()):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200})
    match kind:
        case "note":
            await send({"type": "http.response.body", "body": b"%d %d" % (os.getpid(), size)})
        case "slow":
            total, pause_s = int(arguments[0]), int(arguments[1]) / 1000 / _STEPS
            for step in range(_STEPS):
                piece = content(total * step // _STEPS, total * (step + 1) // _STEPS)
                more = step + 1 < _STEPS
                await send({"type": "http.response.body", "body": piece, "more_body": more})
                await asyncio.sleep(pause_s)
        case "file":
            path = _NOTES.with_name(arguments[0])
            await send({"type": "http.response.pathsend", "path": str(path)})


moving_server.PROGRAMS["moving"] = {
    "create_protocol": partial(
        AsgiProtocol,
        application=application,
        lifespan=Lifespan(application, "asgi_server:application"),
        disk=whole_disk(),
    )
}

#: Takes nothing over, where it is told so.
moving_server.PROGRAMS["forgetful"] = {"create_protocol": moving_server.MovingProtocol}

if __name__ == "__main__":
    moving_server.main()
