"""Commands about single connections: list them, hand one over, save one, resume one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

from quicbaton.asyncio.addresses import address_text
from quicbaton.asyncio.beside import TCP_NAME, BesideConnection
from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.errors import CallerError, QuicbatonError
from quicbaton.handoff import Outcome
from quicbaton.limits import FREEZE_ANSWER_S
from quicbaton.reasons import Reason
from quicbaton.service.moving.handoff import HandoffResult
from quicbaton.service.moving.registry import HandoffRegistry
from quicbaton.service.node.baton_files import read_baton, write_baton
from quicbaton.service.node.control import Handler
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.link import Link
from quicbaton.transport.paths.path import validated_path

#: Sleeping connections described in one turn of the event loop: some ten milliseconds.
_READ_AT_ONCE: Final = 256


class ConnectionCommands:
    """Carries out commands on one endpoint. `link_to(name)` gives the link to another process;
    `beside()` are further connections to list, which cannot move."""

    def __init__(
        self,
        endpoint: Endpoint,
        handoffs: HandoffRegistry,
        link_to: Callable[[str], Awaitable[Link]],
        beside: Callable[[], list[BesideConnection]],
    ) -> None:
        self._endpoint = endpoint
        self._handoffs = handoffs
        self._link_to = link_to
        self._beside = beside

    def handlers(self) -> dict[type[c.Frame], Handler]:
        return {
            c.ListConnections: self._answer_list,
            c.ListByWorker: self._answer_list_by_worker,
            c.HandOff: self._hand_off,
            c.HandOffProxied: self._hand_off,
            c.Save: self._save,
            c.Resume: self._resume,
            c.Freeze: self._freeze,
            c.Revive: self._revive,
            c.ReadTimelines: self._read_timelines,
        }

    def find(self, prefix: str) -> Session:
        """The one connection whose name begins with `prefix` (hexadecimal)."""
        check_moves(prefix)
        found = [name for name in self._endpoint.names() if name.hex().startswith(prefix.lower())]
        session = self._endpoint.session_of(found[0]) if len(found) == 1 else None
        if session is None:
            text = "no connection" if len(found) < 2 else f"{len(found)} connections"
            raise CallerError(
                f"{text} here whose name begins with {prefix!r}: see `ps`",
                code=Reason.NO_SUCH_CONNECTION,
            )
        return session

    async def _hand_off(self, _channel: Channel, frame: c.HandOff | c.HandOffProxied) -> c.Frame:
        self.find(frame.connection)
        link = await self._link_to(frame.to)
        # It may have ended or fallen asleep in the meantime.
        session = self.find(frame.connection)
        proxy = isinstance(frame, c.HandOffProxied)
        report = await self._handoffs.hand_over(session, link, proxy=proxy)
        return _answer_of(report, Outcome.GIVEN)

    async def _save(self, _channel: Channel, frame: c.Save) -> c.Frame:
        keep = partial(write_baton, Path(frame.path))
        report = await self._handoffs.save(self.find(frame.connection), keep)
        return c.Answer(report.code is Reason.SAVED, report.code, report.message)

    async def _resume(self, _channel: Channel, frame: c.Resume) -> c.Frame:
        report = await self._handoffs.resume_file(read_baton(Path(frame.path)))
        return _answer_of(report, Outcome.RESUMED)

    async def _freeze(self, channel: Channel, frame: c.Freeze) -> c.Frame:
        """Freeze a connection for a caller on another host. Until the caller has stored the baton,
        a lost baton must not cost the connection its life."""
        session = self.find(frame.connection)
        name = session.connection.name
        kept: list[bytes] = []
        report = await self._handoffs.save(session, kept.append)
        if report.code is not Reason.SAVED:
            return c.Answer(False, report.code, report.message)
        try:
            await Conversation(channel, FREEZE_ANSWER_S).ask(c.Frozen(kept[0]), c.Kept)
        except QuicbatonError:
            text = "the command did not confirm in time that it had stored the baton"
            self._handoffs.cancel_save(name, Reason.NOT_KEPT, text)
            return c.Answer(False, Reason.NOT_KEPT, text)
        return c.Answer(True, Reason.OK, "frozen")

    async def _revive(self, _channel: Channel, frame: c.Revive) -> c.Frame:
        return _answer_of(await self._handoffs.resume_file(frame.sealed), Outcome.RESUMED)

    async def _read_timelines(self, _channel: Channel, frame: c.ReadTimelines) -> c.Frame:
        return c.Timelines(await self._handoffs.timelines.read(frame.connection, frame.wait_s))

    async def _answer_list(self, _channel: Channel, _frame: c.ListConnections) -> c.Frame:
        return await self._list()

    async def _answer_list_by_worker(self, _channel: Channel, _frame: c.ListByWorker) -> c.Frame:
        listed = await self._list()
        worker = self._endpoint.table.place.worker
        return c.ByWorker(listed.pid, listed.address, [c.WorkerConnections(worker, listed)])

    async def _list(self) -> c.Connections:
        udp = self._endpoint.udp
        described = {**await self._describe_sleepers(), **await self._describe_awake()}
        infos = [info for name, info in described.items() if self._endpoint.has(name)]
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
        infos += [_describe_beside(one) for one in self._beside()]
        return c.Connections(
            pid=os.getpid(),
            address=address_text(udp.address),
            accepted=self._endpoint.accepted,
            resumed=self._handoffs.counts.resumed,
            given=self._handoffs.counts.given,
            datagrams_sent=udp.datagrams_sent,
            datagrams_received=udp.datagrams_received,
            datagrams_forwarded=self._handoffs.counts.forwarded,
            connections=infos,
        )

    async def _describe_sleepers(self) -> dict[bytes, c.ConnectionInfo]:
        """Describe sleeping connections from their bytes, without waking them. Many take long, so
        others get their turn in between."""
        infos: dict[bytes, c.ConnectionInfo] = {}
        for name in list(self._endpoint.asleep):
            if len(infos) % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                await asyncio.sleep(0)
            nap = self._endpoint.asleep.peek(name)
            if nap is None:
                continue
            state = nap.connection
            infos[name] = c.ConnectionInfo(
                connection=name.hex(),
                state="asleep",
                peer=address_text(validated_path(state).remote),
                server_name=state.server_name,
                alpn=state.alpn,
                age_s=monotonic() - nap.origin_s,
                rtt_ms=state.recovery.smoothed_rtt_us / 1000,
                streams=len(state.streams),
                buffered_bytes=0,
                term=self._handoffs.ledger.record(name).term,
                cutover_pending=False,
            )
        return infos

    async def _describe_awake(self) -> dict[bytes, c.ConnectionInfo]:
        """Describe the others. Those that doze are bytes, too, and stay so."""
        infos: dict[bytes, c.ConnectionInfo] = {}
        for session in list(self._endpoint.sessions.values()):
            if len(infos) % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                await asyncio.sleep(0)
            if not session.is_over:
                infos[session.connection.name] = self._describe(session)
        return infos

    def _describe(self, session: Session) -> c.ConnectionInfo:
        connection = session.connection
        return c.ConnectionInfo(
            connection=connection.name.hex(),
            state=_state_of(session),
            peer=address_text(connection.peer_address),
            server_name=connection.server_name,
            alpn=connection.alpn,
            age_s=connection.age_s,
            rtt_ms=connection.smoothed_rtt_s * 1000,
            streams=connection.stream_count,
            buffered_bytes=connection.buffered_bytes(),
            term=self._handoffs.ledger.record(connection.name).term,
            cutover_pending=connection.cutover_pending,
        )


def check_moves(prefix: str) -> None:
    """CallerError for the name of a connection that is listed, and that no command can take."""
    if prefix.startswith(TCP_NAME):
        raise CallerError(
            f"{prefix} is a TCP connection, which cannot move: it ends where it is",
            code=Reason.OVER_TCP,
        )


def _state_of(session: Session) -> str:
    if session.connection.is_closing:
        return "closing"
    return "open" if session.sent_for_by is None else "proxied"


def _describe_beside(one: BesideConnection) -> c.ConnectionInfo:
    return c.ConnectionInfo(
        connection=one.name,
        state="tcp",
        peer=address_text(one.peer) if one.peer else "",
        server_name="",
        alpn=one.alpn,
        age_s=one.age_s,
        rtt_ms=one.rtt_ms,
        streams=one.running,
        buffered_bytes=one.held_bytes,
        term=0,
        cutover_pending=False,
    )


def _answer_of(report: HandoffResult, wanted: Outcome) -> c.Answer:
    return c.Answer(report.outcome is wanted, report.code, report.message)
