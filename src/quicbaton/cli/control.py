"""Asking a running server something over its control socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

from quicbaton.asyncio.node.takeover import read_frames
from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.channel import connect_channel
from quicbaton.errors import PeerError, QuicbatonError

_Frame = TypeVar("_Frame", bound=c.Frame)

#: Longer than any command takes: a handoff gives up on its own after a few seconds.
TIMEOUT_S = 60.0


class CommandFailedError(QuicbatonError):
    """The server refused a command, or could not carry it out; `code` is the server's."""


async def ask(
    path: Path, command: c.Frame, answer: type[_Frame], timeout_s: float = TIMEOUT_S
) -> _Frame:
    """Send one command and return its answer.

    PeerError when nobody answers, CommandFailedError when the answer is no.
    """
    channel = await connect_channel(path)
    frames = read_frames(channel)
    try:
        channel.write(c.encode(command))
        channel.start()
        async with asyncio.timeout(timeout_s):
            frame = await frames.get()
    except TimeoutError:
        raise PeerError(
            f"{path} took the command and did not answer in {timeout_s:.0f} s", code="timeout"
        ) from None
    finally:
        channel.close()
    if isinstance(frame, c.Answer) and not frame.ok:
        raise CommandFailedError(frame.message, code=frame.code)
    if not isinstance(frame, answer):
        raise PeerError(f"{path} gave an answer to another question", code="unexpected_message")
    return frame


def ask_now(path: Path, command: c.Frame, answer: type[_Frame]) -> _Frame:
    """`ask`, for a program without an event loop."""
    return asyncio.run(ask(path, command, answer))
