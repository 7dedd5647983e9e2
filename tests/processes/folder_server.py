"""The server process of tests about files: the folder `FOLDER` of the environment, over HTTP/3."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from quicbaton.files import FileProtocol, Folder
from tests.processes import moving_server

_FOLDER = Folder(Path(os.environ["FOLDER"]))
moving_server.PROGRAMS["moving"] = {"create_protocol": partial(FileProtocol, folder=_FOLDER)}

if __name__ == "__main__":
    moving_server.main()
