"""The last words to clients: GOAWAY, in two steps (RFC 9114 §5.2), and the close.

A process that sends for the owners of connections (`moving.proxying`) cannot speak to their clients
itself, and afterwards no process can. So it asks the owners to end these connections in good order,
and sends that, too, before it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.errors import QuicbatonError
from quicbaton.handoff import events as ev
from quicbaton.service.moving.outgoing import OutgoingHandoff
from quicbaton.service.node.changes import Changes
from quicbaton.service.node.control import Handler
from quicbaton.service.node.node import Node
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.names import is_name_of
from quicbaton.service.timing import END_S, LEAST_ROUND_TRIP_S, MOST_ROUND_TRIP_S

#: H3_NO_ERROR (RFC 9114 §8.1).
_H3_NO_ERROR: Final = 0x100


async def announce(sessions: Iterable[Session], until: float, changes: Changes) -> None:
    """Send the first GOAWAY, and let the requests come that are on their way: a round trip, but
    not longer than `until`, by the monotonic clock."""
    told = [session for session in sessions if session.protocol._http is not None]
    if not told:
        return
    for session in told:
        say_goaway(session, final=False)
    longest = max(session.connection.smoothed_rtt_s for session in told)
    pause_s = min(max(longest, LEAST_ROUND_TRIP_S), MOST_ROUND_TRIP_S)
    pause_until = min(monotonic() + pause_s, until)
    while monotonic() < pause_until:
        await changes.wait(pause_until)


def say_goaway(session: Session, *, final: bool) -> None:
    """Send GOAWAY, where HTTP/3 is spoken."""
    if session.protocol._http is not None and not session.is_over:
        session.protocol._http.send_goaway(final=final)
        session.protocol.transmit()


def close(session: Session) -> None:
    """Close a connection because the server stops."""
    if not session.is_over and not session.connection.is_closing:
        code = 0 if session.protocol._http is None else _H3_NO_ERROR
        session.protocol.close(code, "the server stops")


class ProxiedEndings:
    """Ends connections of this process because the process that sends for them stops."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def handlers(self) -> dict[type[c.Frame], Handler]:
        return {c.EndProxied: self._end}

    async def _end(self, channel: Channel, frame: c.EndProxied) -> c.Frame:
        found = map(self._node.endpoint.session_of, frame.connections)
        sessions = [one for one in found if one is not None and _is_sent_for_by(one, channel)]
        until = monotonic() + frame.grace_s
        left = set(sessions)
        changes = Changes(lambda: True)

        def end(session: Session) -> None:
            left.discard(session)
            close(session)
            changes.note()

        await announce(sessions, until, changes)
        for session in sessions:
            say_goaway(session, final=True)
            session.when_idle(end)
        while (left := {one for one in left if not one.is_over}) and monotonic() < until:
            await changes.wait(until)
        cut = len(left)
        for session in left:
            close(session)
        return c.Left(0, len(sessions), cut)


async def end_proxied(node: Node, until: float, changes: Changes) -> c.Left:
    """Have the owners of connections for which this process sends end them, by `until`. What is
    left then is reset (RFC 9000 §10.3): no process can send to its client any more."""
    by_owner = node.handoffs.proxied()

    async def ask(owner: str, proxied: list[OutgoingHandoff]) -> c.Left | None:
        grace_s = max(0.0, until - monotonic())
        command = c.EndProxied([one.connection_id for one in proxied], grace_s)
        try:
            return await node.ask(owner, command, c.Left, grace_s + END_S)
        except QuicbatonError:
            return None

    answers = await asyncio.gather(*(ask(*one) for one in by_owner.items()))
    closed = cut = 0
    for proxied, left in zip(by_owner.values(), answers, strict=True):
        closed += len(proxied)
        cut += len(proxied) if left is None else left.cut
    # The answers may have overtaken the last trains.
    last = monotonic() + MOST_ROUND_TRIP_S
    while node.handoffs.proxied() and monotonic() < last:
        await changes.wait(last)
    for proxied in node.handoffs.proxied().values():
        for one in proxied:
            one.feed(ev.PeerDead(no_owner_lives=True))
    return c.Left(0, closed, cut)


def _is_sent_for_by(session: Session, channel: Channel) -> bool:
    """Whether the process at the other end of the channel, or of its host, sends for it."""
    sender = session.sent_for_by
    if not sender:
        return False
    return not channel.is_remote or is_name_of(sender, channel.peer.node)
