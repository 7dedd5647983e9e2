"""The end of one worker process, on its supervisor's command."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, ask
from quicbaton.service.supervisor.spawn import Process
from quicbaton.service.timing import END_S


async def end(process: Process, grace_s: float, to: str) -> c.Left:
    """Have a worker stop in good order; kill it if it does not. Returns what became of its
    connections."""
    left = c.Left(0, 0, 0)
    with contextlib.suppress(QuicbatonError, TimeoutError):
        async with asyncio.timeout(grace_s + END_S):
            if process.begun:
                left = await _stop_one(process, grace_s, to)
            else:
                process.signal(signal.SIGTERM)
            await process.exited.wait()
    if not process.exited.is_set():
        process.signal(signal.SIGKILL)
        await process.exited.wait()
    return left


async def _stop_one(process: Process, grace_s: float, to: str) -> c.Left:
    """Have it stop. It ends then, or soon."""
    stop = c.Stop(grace_s, to)
    try:
        left = await ask(process.control, stop, c.Left, grace_s + END_S)
    except CommandFailedError as error:
        if error.code is not Reason.BUSY:
            process.signal(signal.SIGTERM)
        # Otherwise another command stops it already: a signal now would cut requests that still
        # have time.
        return c.Left(0, 0, 0)
    except PeerError as error:
        if process.replaced and error.code is Reason.UNREACHABLE:
            return c.Left(0, 0, 0)  # it is about to end
        raise
    process.signal(signal.SIGTERM)
    return left
