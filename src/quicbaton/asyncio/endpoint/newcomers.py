"""Initials that may begin a connection: refused, sent a Retry to prove the address, or accepted.

All of them are one owner in the endpoint's line, however many connection IDs they make up. A
handshake takes milliseconds, and a flood of them gets one connection's share of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Protocol

from aioquic.quic.packet import QuicErrorCode

from quicbaton.asyncio.endpoint.address_tokens import AddressTokens
from quicbaton.asyncio.endpoint.memory import refuses_clients
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.handshake import refuse
from quicbaton.limits import MAX_HANDSHAKES, RETRY_FROM_HANDSHAKES
from quicbaton.routing.long_header import LongHeader, parse_long_header
from quicbaton.routing.quic_lb import IdFactory
from quicbaton.routing.retry import AddressTokenError, ValidatedAddress
from quicbaton.transport.budget import MemoryBudget


class Owner(Protocol):
    """An object that takes a connection's datagrams: a handshake, a session, a handoff."""

    def receive(self, batch: list[Datagram]) -> None: ...
    def __hash__(self) -> int: ...


class Owners(Protocol):
    """The part of the routing table that newcomers need."""

    @property
    def owners(self) -> Mapping[bytes, Owner]: ...


class Host(Protocol):
    """The part of the endpoint that newcomers need."""

    accepts: bool
    refuses: bool
    retry: bool
    counters: Counter[str]
    ids: IdFactory
    tokens: AddressTokens
    budget: MemoryBudget

    @property
    def table(self) -> Owners: ...
    @property
    def handshakes(self) -> Collection[object]: ...
    def answer(self, data: bytes, datagram: Datagram) -> None: ...
    def begin(self, header: LongHeader, validated: ValidatedAddress | None) -> Owner | None: ...
    def serve(self, owner: Owner, group: list[Datagram]) -> None: ...


class Newcomers:
    """The owner of Initials with an unknown connection ID."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __repr__(self) -> str:
        return "<Newcomers>"

    def receive(self, batch: list[Datagram]) -> None:
        """Begin handshakes, and give each the datagrams of its first flight."""
        groups: dict[Owner, list[Datagram]] = {}
        for datagram in batch:
            header = parse_long_header(datagram.data)
            if header is None:
                continue
            owner = self._host.table.owners.get(header.destination_id)
            if owner is None:
                owner = self._accept(header, datagram)
            if owner is not None:
                groups.setdefault(owner, []).append(datagram)
        for owner, group in groups.items():
            self._host.serve(owner, group)

    # --- helpers, in reading order --------------------------------------------------------------

    def _accept(self, header: LongHeader, datagram: Datagram) -> Owner | None:
        """Begin a handshake, unless the client's address must be validated first (§8.1)."""
        host = self._host
        if host.refuses or refuses_clients(host.budget):
            self._refuse(header, datagram, QuicErrorCode.CONNECTION_REFUSED)
            return None
        if not host.accepts:
            host.counters["not_accepting"] += 1
            return None
        try:
            validated = host.tokens.validate(header, datagram)
        except AddressTokenError:
            self._refuse(header, datagram, QuicErrorCode.INVALID_TOKEN)
            return None
        if len(host.handshakes) >= MAX_HANDSHAKES:
            host.counters["too_many_handshakes"] += 1
            return None
        pressed = len(host.handshakes) >= RETRY_FROM_HANDSHAKES
        if validated is None and (host.retry or pressed):
            self._send_retry(header, datagram)
            return None
        return host.begin(header, validated)

    def _refuse(self, header: LongHeader, datagram: Datagram, code: QuicErrorCode) -> None:
        self._host.counters[code.name.lower()] += 1
        self._host.answer(
            refuse(
                version=header.version,
                destination_id=header.destination_id,
                source_id=header.source_id,
                error_code=code,
            ),
            datagram,
        )

    def _send_retry(self, header: LongHeader, datagram: Datagram) -> None:
        host = self._host
        host.counters["retry"] += 1
        retry_id, _ = host.ids.issue()
        host.answer(host.tokens.retry(header, datagram, retry_id), datagram)
