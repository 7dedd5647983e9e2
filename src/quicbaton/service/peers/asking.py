"""Commands to another process over its control socket, and their answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel, connect_channel
from quicbaton.service.timing import ANSWER_S

_Frame = TypeVar("_Frame", bound=c.Frame)


class CommandFailedError(QuicbatonError):
    """The server refused a command, or could not carry it out. `code` is the server's."""


async def ask(
    path: Path, command: c.Frame, answer: type[_Frame], timeout_s: float = ANSWER_S
) -> _Frame:
    """Send one command and return its answer, as `Conversation.ask` does."""
    with await Conversation.begin(path, timeout_s) as conversation:
        return await conversation.ask(command, answer)


async def follow(
    path: Path, command: c.Frame, end: type[_Frame], on_step: Callable[[c.Frame], None]
) -> _Frame:
    """Send a command that takes long and return its end, as `Conversation.follow` does."""
    with await Conversation.begin(path) as conversation:
        return await conversation.follow(command, end, on_step)


class Conversation:
    """Commands and answers over one channel, in turn. `with` closes the channel at its end.

    `timeout_s` is the deadline of each answer that does not come in steps.
    """

    def __init__(self, channel: Channel, timeout_s: float = ANSWER_S) -> None:
        self.channel = channel
        self._timeout_s = timeout_s
        self._frames: asyncio.Queue[c.Frame | PeerError] = asyncio.Queue()
        self._reader = c.CODEC.reader()
        if channel.closed:
            self._on_lost()
        else:
            channel.on_data, channel.on_lost = self._on_data, self._on_lost
            channel.start()

    @classmethod
    async def begin(cls, path: Path, timeout_s: float = ANSWER_S) -> Self:
        """Connect to the process with this control socket. PeerError when it does not answer."""
        return cls(await connect_channel(path), timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def ask(self, command: c.Frame, answer: type[_Frame]) -> _Frame:
        """Send one command and return its answer.

        PeerError when none comes, CommandFailedError when the command was refused or failed.
        """
        self.channel.write(c.encode(command))
        return await self.expect(answer)

    async def expect(self, answer: type[_Frame]) -> _Frame:
        """The answer to a command that was sent already, as `ask` gives it."""
        try:
            async with asyncio.timeout(self._timeout_s):
                frame = await self.next()
        except TimeoutError:
            if self._frames.empty():
                raise PeerError(
                    f"the server took the command and did not answer in {self._timeout_s:.0f} s",
                    code=Reason.DEADLINE,
                ) from None
            # The answer came in time: this process stood still.
            frame = await self.next()
        return _checked(frame, answer)

    async def ask_for_descriptor(
        self, command: c.Frame, answer: type[_Frame]
    ) -> tuple[_Frame, int]:
        """Send a command whose answer brings one descriptor, which the caller owns. If it fails,
        the channel is closed, and so is a descriptor that comes later."""
        try:
            given = await self.ask(command, answer)
            descriptors = self.channel.take_descriptors()
            if len(descriptors) != 1:
                for descriptor in descriptors:
                    os.close(descriptor)
                raise PeerError(
                    f"expected one descriptor, {len(descriptors)} came",
                    code=Reason.UNEXPECTED_MESSAGE,
                )
        except BaseException:
            self.close()
            raise
        return given, descriptors[0]

    async def follow(
        self, command: c.Frame, end: type[_Frame], on_step: Callable[[c.Frame], None]
    ) -> _Frame:
        """Send a command that takes long. `on_step` gets the frames before its end. There is no
        deadline here: the process that carries it out has its own.

        An end that is an `Answer` is returned whatever its code. Other failures are as in `ask`.
        """
        self.channel.write(c.encode(command))
        while True:
            frame = await self.next()
            if isinstance(frame, end):
                return frame
            if isinstance(frame, c.Answer):
                return _checked(frame, end)
            on_step(frame)

    async def next(self) -> c.Frame:
        """The next frame. PeerError, now and for ever, when the process has hung up or sent a
        malformed frame."""
        frame = await self._frames.get()
        if isinstance(frame, PeerError):
            self._frames.put_nowait(frame)
            raise frame
        return frame

    def close(self) -> None:
        self.channel.close()

    # --- helpers --------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._frames.put_nowait(frame)
        except PeerError as error:
            self._frames.put_nowait(error)
            self.channel.abort()

    def _on_lost(self) -> None:
        why = f": {self.channel.reason}" if self.channel.reason else ""
        self._frames.put_nowait(PeerError(f"the other process hung up{why}", code=Reason.LINK_LOST))


def splice(channel: Channel, other: Channel, first: bytes) -> None:
    """Pass the bytes of each channel on to the other, beginning with `first`, until one hangs up.
    `other` is new, `channel` is already read."""
    channel.on_data, channel.on_lost = other.write, other.close
    other.on_data, other.on_lost = channel.write, channel.close
    other.write(first)
    other.start()
    if channel.closed:
        other.close()


def _checked(frame: c.Frame, answer: type[_Frame]) -> _Frame:
    if isinstance(frame, c.Answer) and not frame.ok:
        reason, text = frame.heard()
        raise CommandFailedError(text, code=reason)
    if not isinstance(frame, answer):
        raise PeerError("it gave an answer to another question", code=Reason.UNEXPECTED_MESSAGE)
    return frame
