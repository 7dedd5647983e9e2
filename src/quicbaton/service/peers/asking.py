"""Asking another process something over its control socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel, connect_channel

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
    return await ask_over(await connect_channel(path), command, answer, timeout_s)


async def ask_over(
    channel: Channel, command: c.Frame, answer: type[_Frame], timeout_s: float = TIMEOUT_S
) -> _Frame:
    """`ask`, over a channel that is new, and is closed afterwards."""
    conversation = Conversation(channel, timeout_s)
    try:
        return await conversation.ask(command, answer)
    finally:
        channel.close()


class Conversation:
    """Commands and answers over one channel, in turn."""

    def __init__(self, channel: Channel, timeout_s: float = TIMEOUT_S) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._frames = read_frames(channel)
        channel.start()

    async def ask(self, command: c.Frame, answer: type[_Frame]) -> _Frame:
        """Send one command and return its answer, as `ask` does."""
        self._channel.write(c.encode(command))
        try:
            async with asyncio.timeout(self._timeout_s):
                frame = await self._frames.get()
        except TimeoutError:
            if self._frames.empty():
                raise PeerError(
                    f"the server took the command and did not answer in {self._timeout_s:.0f} s",
                    code="timeout",
                ) from None
            # It came in time: it was this process that stood still.
            frame = self._frames.get_nowait()
        if isinstance(frame, c.Answer) and not frame.ok:
            raise CommandFailedError(frame.message, code=frame.code)
        if not isinstance(frame, answer):
            raise PeerError("it gave an answer to another question", code="unexpected_message")
        return frame


async def ask_in_steps(
    path: Path, command: c.Frame, on_step: Callable[[c.Frame], None]
) -> c.Answer:
    """Send a command that takes long; `on_step` gets what comes before the answer.

    PeerError when nobody answers; an answer that is no is returned like any other. There is no
    deadline: who carries it out has its own.
    """
    channel = await connect_channel(path)
    frames = read_frames(channel)
    try:
        channel.write(c.encode(command))
        channel.start()
        while True:
            frame = await frames.get()
            if isinstance(frame, c.Answer):
                return frame
            on_step(frame)
    finally:
        channel.close()


async def ask_for_descriptor(
    path: Path, command: c.PassSocket | c.PassRoster | c.PassListener, timeout_s: float = TIMEOUT_S
) -> tuple[c.SocketOf, int]:
    """Send a command that is answered with one descriptor and nothing after it."""
    async with asyncio.timeout(timeout_s):
        channel, _, answer, descriptor = await ask_for_socket(path, command)
    channel.close()
    return answer, descriptor


async def ask_for_socket(
    predecessor: Path,
    command: c.TakeOver | c.Join | c.PassSocket | c.PassRoster | c.PassListener,
) -> tuple[Channel, asyncio.Queue[c.Frame], Any, int]:
    """Send a command that is answered with a descriptor; the channel, its further frames, the
    answer and the descriptor."""
    channel = await connect_channel(predecessor)
    frames = read_frames(channel)
    try:
        channel.write(c.encode(command))
        channel.start()
        answer = await frames.get()
    except BaseException:
        # A descriptor that comes later is closed with it.
        channel.close()
        raise
    descriptors = channel.take_descriptors()
    if isinstance(answer, c.Answer) or len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        channel.close()
        text = answer.message if isinstance(answer, c.Answer) else "it passed no socket"
        raise PeerError(f"{predecessor} refused: {text}", code="refused")
    return channel, frames, answer, descriptors[0]


def splice(channel: Channel, other: Channel, first: bytes) -> None:
    """Pass on what either says to the other, beginning with `first`, until one hangs up. `other` is
    new, `channel` is read already."""
    channel.on_data, channel.on_lost = other.write, other.close
    other.on_data, other.on_lost = channel.write, channel.close
    other.write(first)
    other.start()
    if channel.closed:
        other.close()


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
        why = f": {channel.reason}" if channel.reason else ""
        frames.put_nowait(c.Answer(False, "link_lost", f"the other process hung up{why}"))

    channel.on_data = on_data
    channel.on_lost = on_lost
    return frames
