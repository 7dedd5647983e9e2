"""Commands about single connections: list them, hand one over, save one, resume one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.moving.handoffs import Handoffs
from quicbaton.asyncio.moving.machines import Report
from quicbaton.asyncio.node.control import Handler
from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.channel import Channel
from quicbaton.asyncio.peers.link import Link
from quicbaton.errors import CallerError, PeerError
from quicbaton.handoff import Outcome
from quicbaton.limits import MAX_HANDOFF_MESSAGE_BYTES


class ConnectionCommands:
    """Carries them out on one endpoint. `link_to(name)` gives the link to another process."""

    def __init__(
        self,
        endpoint: Endpoint,
        handoffs: Handoffs,
        link_to: Callable[[str], Awaitable[Link]],
    ) -> None:
        self._endpoint = endpoint
        self._handoffs = handoffs
        self._link_to = link_to

    def handlers(self) -> dict[type[c.Frame], Handler]:
        """By the command."""
        return {
            c.ListConnections: self._list,
            c.HandOff: self._hand_off,
            c.Save: self._save,
            c.Resume: self._resume,
        }

    def find(self, prefix: str) -> Session:
        """The one connection whose name begins with `prefix` (hexadecimal)."""
        found = [
            session
            for name, session in self._endpoint.sessions.items()
            if name.hex().startswith(prefix.lower())
        ]
        if len(found) != 1:
            text = "no connection" if not found else f"{len(found)} connections"
            raise CallerError(
                f"{text} here whose name begins with {prefix!r}: see `ps`",
                code="no_such_connection",
            )
        return found[0]

    async def _hand_off(self, _channel: Channel, frame: c.HandOff) -> c.Frame:
        session = self.find(frame.connection)
        link = await self._link_to(frame.to)
        return _answer_of(await self._handoffs.hand_over(session, link), Outcome.GIVEN)

    async def _save(self, _channel: Channel, frame: c.Save) -> c.Frame:
        report = await self._handoffs.save(self.find(frame.connection), Path(frame.path))
        return c.Answer(report.code == "saved", report.code, report.message)

    async def _resume(self, _channel: Channel, frame: c.Resume) -> c.Frame:
        report = await self._handoffs.resume_file(_read_baton(Path(frame.path)))
        return _answer_of(report, Outcome.RESUMED)

    async def _list(self, _channel: Channel, _frame: c.ListConnections) -> c.Frame:
        udp = self._endpoint.udp
        infos = [self._describe(session) for session in self._endpoint.sessions.values()]
        infos += [
            c.ConnectionInfo(
                connection=handshake.name,
                state="handshake",
                peer=handshake.peer,
                server_name="",
                alpn="",
                age_s=monotonic() - handshake.since_s,
                rtt_ms=0.0,
                streams=0,
                buffered_bytes=0,
                term=0,
                cutover_pending=False,
            )
            for handshake in self._endpoint.handshakes
        ]
        return c.Connections(
            pid=os.getpid(),
            address=_spell(udp.address),
            accepted=self._endpoint.accepted,
            resumed=self._handoffs.resumed,
            given=self._handoffs.given,
            datagrams_sent=udp.datagrams_sent,
            datagrams_received=udp.datagrams_received,
            datagrams_forwarded=self._handoffs.forwarded,
            connections=infos,
        )

    def _describe(self, session: Session) -> c.ConnectionInfo:
        connection = session.connection
        return c.ConnectionInfo(
            connection=connection.name.hex(),
            state="open",
            peer=_spell(connection.peer_address),
            server_name=connection.server_name,
            alpn=connection.alpn,
            age_s=connection.age_s,
            rtt_ms=connection.smoothed_rtt_s * 1000,
            streams=connection.stream_count,
            buffered_bytes=connection.buffered_bytes(),
            term=self._handoffs.ledger.record(connection.name).term,
            cutover_pending=connection.cutover_pending,
        )


def _read_baton(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_HANDOFF_MESSAGE_BYTES + 1)
    if len(data) > MAX_HANDOFF_MESSAGE_BYTES:
        raise PeerError(f"{path} is too big for a baton", code="baton_too_big")
    return data


def _answer_of(report: Report, wanted: Outcome) -> c.Answer:
    return c.Answer(report.outcome is wanted, report.code, report.message)


def _spell(address: tuple[Any, ...]) -> str:
    host = str(address[0]).removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
