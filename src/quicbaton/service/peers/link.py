"""A handoff link: a channel that speaks `handoff.messages`, opened by a Hello from both sides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from quicbaton.baton.versions import readable_versions
from quicbaton.errors import PeerError
from quicbaton.handoff import CODEC, Hello, encode, shared_formats
from quicbaton.handoff.messages import PROTOCOL_VERSION, Descriptors, HandoffMessage, Message
from quicbaton.reasons import Reason
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.names import is_name_of
from quicbaton.service.peers.process_watch import ProcessWatch


class Link:
    """One link to another process. `number` is never used twice in this process.

    `on_up(link)` is called when the peer has greeted, `on_message(link, message)` with every
    message after that, `on_lost(link)` once, after the last message. A PeerError out of
    `on_message` closes the link, which then is lost.
    """

    def __init__(
        self,
        channel: Channel,
        number: int,
        name: str,
        *,
        formats: tuple[int, ...] = readable_versions(),
        on_up: Callable[[Link], None],
        on_message: Callable[[Link, Message], None],
        on_lost: Callable[[Link], None],
    ) -> None:
        self.number = number
        #: The peer's name for us.
        self.own_name = name
        self.peer_name = ""
        self.peer_formats: frozenset[int] = frozenset()
        self._channel = channel
        self._reader = CODEC.reader()
        self._on_up = on_up
        self._on_message = on_message
        self._on_lost = on_lost
        self._unhurried: list[bytes] = []
        self._up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hello = Hello(
            version=PROTOCOL_VERSION,
            node=name,
            pid=os.getpid(),
            formats=formats,
        )
        channel.on_data = self.feed
        channel.on_lost = self._on_channel_lost
        channel.write(encode(self._hello))

    def __repr__(self) -> str:
        where = f"node {self.peer_node}" if self.is_remote else f"pid {self.peer_pid}"
        return f"<Link {self.number} to {self.peer_name or '?'} {where}>"

    @property
    def is_remote(self) -> bool:
        """Whether the link goes over TLS: the death of its process can never be proved."""
        return self._channel.is_remote

    @property
    def peer_pid(self) -> int:
        """The other process's pid, on our own host; 0, which is no process's, for a remote one."""
        return self._channel.peer.pid

    @property
    def peer_node(self) -> str:
        """The node that its certificate names; empty on our own host."""
        return self._channel.peer.node

    @property
    def is_full(self) -> bool:
        """Whether the peer is so far behind that a bulk sender should pause."""
        return self._channel.is_full

    @property
    def is_crowded(self) -> bool:
        """Whether the peer is so far behind that strays should be lost, as on any full link."""
        return self._channel.is_crowded

    def when_drained(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, soon after the link is no longer full, or lost."""
        self._channel.when_drained(go_on)

    @property
    def is_up(self) -> bool:
        """True from the peer's Hello to the link's end."""
        return bool(self.peer_formats) and not self._channel.closed

    def watch(self, on_exit: Callable[[], None]) -> ProcessWatch:
        """Have `on_exit` called when the process at the other end has exited, on our own host."""
        return self._channel.watch(on_exit)

    async def wait_up(self, timeout_s: float) -> None:
        """Return when the peer's Hello has come. PeerError, and the link is closed, when it does
        not come or is not acceptable."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._up)
        except TimeoutError:
            self.abort()
            raise PeerError(
                f"{self!r}: the process does not greet back within {timeout_s:g} s",
                code=Reason.DEADLINE,
            ) from None

    def send(self, message: Message | HandoffMessage) -> None:
        """Send a message. If that fails, the link is lost with it."""
        if self._unhurried:
            self._unhurried.append(encode(message))
            self._flush()
        else:
            self._channel.write(encode(message))

    def send_unhurried(self, message: Message | HandoffMessage) -> None:
        """Send a message for which no client waits, in its place among the others: together with
        the next one, or at the end of this turn of the event loop. A write of its own costs each of
        the two processes ten microseconds."""
        if not self._unhurried:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unhurried.append(encode(message))

    def send_descriptors(self, message: Descriptors, descriptors: Sequence[int]) -> None:
        """Send descriptors, if the other process is on this host and the kernel allows it. They
        stay the caller's, who may close them."""
        if not self.is_remote:
            self._flush()
            self._channel.queue_descriptors(encode(message), descriptors)

    def take_descriptors(self, message: Descriptors) -> list[int]:
        """The descriptors that came with this message, which is being handled; the caller owns
        them. Empty if this process had no room for all."""
        parcel = self._channel.take_parcel()
        if len(parcel) == message.count:
            return parcel
        for descriptor in parcel:
            os.close(descriptor)
        return []

    def feed(self, data: bytes) -> None:
        """Take bytes from the channel."""
        try:
            for message in self._reader.feed(data):
                if self._channel.closed:
                    # Cut by the effects of an earlier message: no message comes after the loss.
                    return
                if not self.peer_formats:
                    self._greet(message)
                else:
                    self._on_message(self, message)
        except PeerError as error:
            self._fail(error)
            self._channel.abort()

    def read_to_the_end(self) -> None:
        """The other process is dead: read the rest of its messages, then lose the link."""
        self._channel.read_to_the_end()

    def abort(self) -> None:
        """Cut the link: both sides lose it."""
        self._channel.abort()

    def close(self) -> None:
        """Close the link; `on_lost` is not called here."""
        self._flush()
        self._fail(PeerError("the link was closed", code=Reason.LINK_LOST))
        self._channel.close()

    # --- helpers --------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._unhurried:
            data = b"".join(self._unhurried)
            self._unhurried.clear()
            self._channel.write(data)

    def _greet(self, message: Message) -> None:
        if not isinstance(message, Hello):
            raise PeerError("a link begins with a Hello", code=Reason.UNEXPECTED_MESSAGE)
        if self.is_remote and not is_name_of(message.node, self.peer_node):
            raise PeerError(
                f"the process calls itself {message.node!r} and its certificate names the node "
                f"{self.peer_node!r}",
                code=Reason.WRONG_NAME,
            )
        if self.is_remote and message.node == self.own_name:
            raise PeerError("that is this very process", code=Reason.SAME_PROCESS)
        self.peer_formats = shared_formats(self._hello, message)
        self.peer_name = message.node
        if not self._up.done():
            self._up.set_result(None)
        self._on_up(self)

    def _fail(self, error: PeerError) -> None:
        if not self._up.done():
            self._up.set_exception(error)
            # A waiting task takes the exception; without one asyncio must not log it.
            self._up.exception()

    def _on_channel_lost(self) -> None:
        why = self._channel.reason
        text = f"the peer hung up: {why}" if why else "the peer hung up"
        self._fail(PeerError(text, code=Reason.LINK_LOST))
        self._on_lost(self)
