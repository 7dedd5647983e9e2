"""The server process of tests about ASGI programs that send files: the folder that `FOLDER` in the
environment names, by Starlette's FileResponse."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from quicbaton.asgi import AsgiProtocol, Lifespan, whole_disk
from tests.processes import moving_server

_FOLDER = Path(os.environ["FOLDER"])


def _file(request: Request) -> FileResponse:
    return FileResponse(_FOLDER / request.path_params["name"])


application = Starlette(routes=[Route("/{name}", _file)])

moving_server.PROGRAMS["moving"] = {
    "create_protocol": partial(
        AsgiProtocol,
        application=application,
        lifespan=Lifespan(application, "asgi_file_server:application"),
        disk=whole_disk(),
    )
}

if __name__ == "__main__":
    moving_server.main()
