"""Datagrams that reach a process which does not own their connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.handoff.messages import Stray


class StraySink:
    """Takes the datagrams of a connection that is frozen, given away, or awaited."""

    def __init__(self, receive: Callable[[list[Datagram]], None]) -> None:
        self.receive = receive


def datagrams(strays: Iterable[Stray]) -> list[Datagram]:
    """The datagrams that other processes forwarded as strays."""
    return [Datagram(stray.datagram, stray.remote, stray.local, stray.ecn) for stray in strays]


def deliver(session: Session, strays: Iterable[Stray]) -> None:
    """Let a connection process forwarded datagrams, in order, if there are any."""
    batch = datagrams(strays)
    if batch:
        session.receive(batch)
