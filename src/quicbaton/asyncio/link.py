"""A handoff link: a channel that speaks `handoff.messages`, opened by a Hello from both sides."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from quicbaton.asyncio.channel import Channel
from quicbaton.baton.versions import readable_versions
from quicbaton.errors import PeerError
from quicbaton.handoff import FrameReader, Hello, encode, shared_formats
from quicbaton.handoff.messages import PROTOCOL_VERSION, Message


class Link:
    """One link to another process. `number` is never used twice in this process.

    `on_message(link, message)` gets everything after the Hello; `on_lost(link)` comes once, after
    the last message. `on_peer_dead(link)` comes when the kernel says that the process has exited:
    a silent peer may only be stopped, so nothing else proves it.
    """

    def __init__(
        self,
        channel: Channel,
        number: int,
        name: str,
        *,
        on_message: Callable[[Link, Message], None],
        on_lost: Callable[[Link], None],
        on_peer_dead: Callable[[Link], None],
    ) -> None:
        self.number = number
        self.peer_name = ""
        self.peer_formats: frozenset[int] = frozenset()
        self._channel = channel
        self._reader = FrameReader()
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_peer_dead = on_peer_dead
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._hello = Hello(
            version=PROTOCOL_VERSION,
            node=name,
            pid=os.getpid(),
            formats=tuple(sorted(readable_versions())),
        )
        self._pidfd = _open_pidfd(channel.peer.pid)
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._on_exit)
        channel.on_data = self.feed
        channel.on_lost = self._on_channel_lost
        channel.write(encode(self._hello))

    def __repr__(self) -> str:
        return f"<Link {self.number} to {self.peer_name or '?'} pid {self._channel.peer.pid}>"

    @property
    def peer_pid(self) -> int:
        return self._channel.peer.pid

    @property
    def is_up(self) -> bool:
        return not self._channel.closed

    async def wait_up(self) -> None:
        """Return when the peer's Hello has come; PeerError when it never does."""
        await self._up

    def send(self, message: Message) -> None:
        self._channel.write(encode(message))

    def send_encoded(self, data: bytes) -> None:
        self._channel.write(data)

    def feed(self, data: bytes) -> None:
        """Bytes from the channel."""
        try:
            for message in self._reader.feed(data):
                if not self.peer_formats:
                    self._greet(message)
                else:
                    self._on_message(self, message)
        except PeerError as error:
            if not self._up.done():
                self._up.set_exception(error)
            self._channel.abort()

    def close(self) -> None:
        """Close without telling `on_lost`."""
        self._forget_process()
        self._channel.close()

    # --- helpers --------------------------------------------------------------------------------

    def _greet(self, message: Message) -> None:
        if not isinstance(message, Hello):
            raise PeerError("a link begins with a Hello", code="unexpected_message")
        self.peer_formats = shared_formats(self._hello, message)
        self.peer_name = message.node
        if not self._up.done():
            self._up.set_result(None)

    def _on_channel_lost(self) -> None:
        if not self._up.done():
            self._up.set_exception(PeerError("the peer hung up", code="link_lost"))
            # Whoever waits takes the exception; nobody has to.
            self._up.exception()
        self._on_lost(self)

    def _on_exit(self) -> None:
        self._forget_process()
        if not self._channel.closed:
            # Its last words first: the channel's end comes to the reader by itself.
            self._loop.call_later(0, self._after_exit)
        else:
            self._on_peer_dead(self)

    def _after_exit(self) -> None:
        if self._channel.closed:
            self._on_peer_dead(self)
        else:
            self._loop.call_soon(self._after_exit)

    def _forget_process(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process exits (Linux 5.3)."""
    with contextlib.suppress(OSError, AttributeError):
        return os.pidfd_open(pid)
    return None
