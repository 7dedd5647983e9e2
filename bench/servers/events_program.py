"""The benchmark's application over our events, for `quicbaton serve`: the yardstick for ASGI."""

import os

from bench.servers.application import Content
from bench.servers.quicbaton_server import Protocol


class Events(Protocol):
    """The bench server's protocol, with a body as large as the environment says."""

    content = Content(int(os.environ["BENCH_BODY_BYTES"]))
