"""The control socket of a process: finds the handler of each command that comes in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel

#: Carries out one kind of command. Takes the channel, for commands with several answers, and the
#: command. Returns the answer, or None when it has answered itself.
Handler = Callable[[Channel, Any], Awaitable[c.Frame | None]]


class Control:
    """Answers the commands in `handlers`, one at a time on each channel. `open_link(channel, rest)`
    makes a handoff link of a channel that asks for it; `rest` are the bytes that were read behind
    that."""

    def __init__(
        self,
        handlers: Mapping[type[c.Frame], Handler],
        *,
        open_link: Callable[[Channel, bytes], None],
        spawn: Callable[[Callable[[], Any]], object],
    ) -> None:
        self._handlers = dict(handlers)
        self._open_link = open_link
        self._spawn = spawn

    def add(self, handlers: Mapping[type[c.Frame], Handler]) -> None:
        """Answer these commands, too. Their handlers replace earlier ones of the same commands."""
        self._handlers.update(handlers)

    def on_channel(self, channel: Channel) -> None:
        reader = c.CODEC.reader()
        answering = False

        async def answer(frame: c.Frame) -> None:
            nonlocal answering
            try:
                await self._answer(channel, frame)
            finally:
                answering = False

        def on_data(data: bytes) -> None:
            nonlocal answering
            if answering:
                # A peer that does not wait for the answer could make us hold any number of
                # commands. Where a command has more than one part its handler reads the channel
                # itself.
                channel.abort()
                return
            try:
                frame = next(reader.feed(data), None)
            except PeerError:
                channel.abort()
                return
            if frame is None:
                return
            if channel.is_remote and not c.may_come_from_afar(frame):
                text = f"{type(frame).__name__} with these arguments is for processes of this host"
                channel.write(c.encode(c.Answer(False, Reason.LOCAL_ONLY, text)))
                channel.close()
                return
            if isinstance(frame, c.OpenLink):
                self._open_link(channel, reader.rest)
                return
            if reader.rest:
                channel.abort()
                return
            answering = True
            self._spawn(lambda: answer(frame))

        channel.on_data = on_data

    async def _answer(self, channel: Channel, frame: c.Frame) -> None:
        handler = self._handlers.get(type(frame), _unknown)
        answer: c.Frame | None
        try:
            answer = await handler(channel, frame)
        except QuicbatonError as error:
            answer = c.Answer(False, error.code, str(error))
        except OSError as error:
            answer = c.Answer(False, Reason.OS, str(error))
        except Exception as error:
            # The task's outermost boundary: the caller must not wait for ever.
            text = f"{type(error).__name__}: see the server's log"
            channel.write(c.encode(c.Answer(False, Reason.INTERNAL, text)))
            raise
        if answer is not None:
            channel.write(c.encode(answer))


async def _unknown(_channel: Channel, frame: c.Frame) -> c.Frame:
    raise PeerError(
        f"this process does not answer {type(frame).__name__}", code=Reason.UNEXPECTED_MESSAGE
    )
