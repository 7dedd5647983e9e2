"""Datagrams that reach a process which does not own their connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.handoff.messages import Stray


class Sink:
    """Takes the datagrams of a connection that is frozen or given away."""

    def __init__(
        self, connection_id: bytes, on_strays: Callable[[bytes, list[Datagram]], None]
    ) -> None:
        self._connection_id = connection_id
        self._on_strays = on_strays

    def receive(self, batch: list[Datagram]) -> None:
        self._on_strays(self._connection_id, batch)


def datagrams(strays: Iterable[Stray]) -> list[Datagram]:
    """Strays as they arrived."""
    return [Datagram(stray.datagram, stray.remote, stray.local, stray.ecn) for stray in strays]


def deliver(session: Session, strays: Iterable[Stray]) -> None:
    """Let a connection process what was forwarded to it, in order, if there is anything."""
    batch = datagrams(strays)
    if batch:
        session.receive(batch)
