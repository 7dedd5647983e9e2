"""Autobahn's WebSocket cases (RFC 6455), played by kosoku against an echoing program.

kosoku speaks ws over TCP, so it gets a port of ours at which bytes pass to the server: within TLS,
or within a stream of HTTP/3, whose frames are the same (RFC 9220).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.conformance import bridges
from tests.conformance.fetch import site
from tests.conformance.outcome import Check, Outcome
from tests.conformance.service import Server, serving

#: permessage-deflate (RFC 7692), which ours does not offer.
COMPRESSION = ("12.*", "13.*")
#: Megabytes within 10 s: over HTTP/3 that would be a measure of aioquic, which carries them.
LARGE = ("9.*",)
#: Cases at a time.
_CONCURRENCY = 4
_CASES_S = 200.0
#: For the last clients' connections to be closed.
_END_S = 10.0

Bridge = Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def over_tcp() -> Outcome:
    return _run(bridges.within_tls, COMPRESSION)


def over_http3() -> Outcome:
    return _run(bridges.within_http3, COMPRESSION + LARGE)


def _run(bridge: Bridge, excluded: tuple[str, ...]) -> Outcome:
    if str(site()) not in sys.path:
        sys.path.append(str(site()))
    with (
        tempfile.TemporaryDirectory(prefix="quicbaton-conformance-") as home,
        serving(Path(home), "tests.conformance.programs:echo") as server,
    ):
        results = asyncio.run(_play(bridge, server, excluded))
    return Outcome(
        [
            Check(
                f"case {result.case_id}",
                result.passed,
                f"{result.behavior.value}, close {result.behavior_close.value}: {result.result} "
                f"{result.result_close}",
            )
            for result in results
        ]
    )


class _Bridging:
    """A port at which each client gets a bridge to the server, until all have ended."""

    def __init__(self, bridge: Bridge, server: Server) -> None:
        self._bridge = bridge
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._bridge(self._server, reader, writer))
        self._tasks.add(task)

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


async def _play(bridge: Bridge, server: Server, excluded: tuple[str, ...]) -> list[Any]:
    from kosoku import FailureError, run_fuzzingclient  # noqa: PLC0415 - fetched a moment ago

    bridging = _Bridging(bridge, server)
    listener = await asyncio.start_server(bridging.begin, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(_CASES_S):
            return list(await run_fuzzingclient(url, None, excluded, _CONCURRENCY))
    except FailureError as failure:
        return list(failure.results)
    finally:
        listener.close()
        await asyncio.wait_for(bridging.end(), _END_S)
