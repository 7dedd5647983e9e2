"""Asking another process something over its control socket."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final, TypeVar

from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.channel import Channel, connect_channel
from quicbaton.errors import PeerError, QuicbatonError

_Frame = TypeVar("_Frame", bound=c.Frame)

#: Longer than any one handoff takes, which gives up on its own after a few seconds.
TIMEOUT_S: Final = 60.0


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


async def ask_for_socket(
    predecessor: Path, command: c.TakeOver | c.Join
) -> tuple[Channel, asyncio.Queue[c.Frame], Any, int]:
    """Send a command that is answered with a descriptor; the channel, its further frames, the
    answer and the descriptor."""
    channel = await connect_channel(predecessor)
    frames = read_frames(channel)
    channel.write(c.encode(command))
    channel.start()
    answer = await frames.get()
    descriptors = channel.take_descriptors()
    if isinstance(answer, c.Answer) or len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        channel.close()
        text = answer.message if isinstance(answer, c.Answer) else "it passed no socket"
        raise PeerError(f"{predecessor} refused: {text}", code="refused")
    return channel, frames, answer, descriptors[0]


def read_frames(channel: Channel) -> asyncio.Queue[c.Frame]:
    """Frames that a command's channel brings; ends with an `Answer` in any case."""
    frames: asyncio.Queue[c.Frame] = asyncio.Queue()
    reader = c.CommandReader()

    def on_data(data: bytes) -> None:
        try:
            frame = reader.feed(data)
            while frame is not None:
                frames.put_nowait(frame)
                frame = reader.feed(b"")
        except PeerError as error:
            frames.put_nowait(c.Answer(False, error.code, str(error)))
            channel.abort()

    def on_lost() -> None:
        frames.put_nowait(c.Answer(False, "link_lost", "the other process hung up"))

    channel.on_data = on_data
    channel.on_lost = on_lost
    return frames
