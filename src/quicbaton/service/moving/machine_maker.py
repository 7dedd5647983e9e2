"""Makes the machines with which a process begins its part in a handoff."""

from __future__ import annotations

import os
from time import monotonic

from quicbaton.handoff import (
    CuttingOver,
    Giving,
    GivingByLedger,
    GivingByStore,
    Taking,
    TakingByLedger,
    TakingByStore,
    Waits,
)
from quicbaton.handoff.messages import Moved
from quicbaton.ownership import Ledger
from quicbaton.service.moving.store_client import StoreClient
from quicbaton.service.peers.link import Link


class MachineMaker:
    """`formats` are the baton formats that this process reads, `store` the shared store that may
    decide who owns a connection."""

    def __init__(
        self, ledger: Ledger, waits: Waits, formats: frozenset[int], store: StoreClient | None
    ) -> None:
        self._ledger = ledger
        self._waits = waits
        self._formats = formats
        self._store = store

    def giving(self, connection_id: bytes, *, shared: bool) -> Giving:
        """A machine that gives a connection away; `shared`: the store decides, if there is one."""
        handoff_id = os.urandom(16)
        if not shared or self._store is None:
            return GivingByLedger(connection_id, handoff_id, self._ledger, waits=self._waits)
        return GivingByStore(
            connection_id,
            handoff_id,
            self._ledger,
            incarnation=self._store.incarnation,
            store_id=self._store.store_id,
            waits=self._waits,
        )

    def taking(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        name: str,
        *,
        can_send: bool = True,
        shared: bool = False,
    ) -> Taking:
        """A machine that takes a connection over. `name` is the source's name for us; `can_send`:
        whether we can send from the address to which its client sends; `shared`: the store decides,
        if there is one."""
        if not shared or self._store is None:
            return TakingByLedger(
                connection_id,
                handoff_id,
                self._ledger,
                name=name,
                formats=self._formats,
                can_send=can_send,
                waits=self._waits,
            )
        return TakingByStore(
            connection_id,
            handoff_id,
            self._ledger,
            incarnation=self._store.incarnation,
            store_id=self._store.store_id,
            name=name,
            formats=self._formats,
            can_send=can_send,
            waits=self._waits,
        )

    def cutting_over(self, connection_id: bytes, handoff_id: bytes, link: Link) -> CuttingOver:
        """A machine for a process that has announced over `link` that it forwards to us."""
        return CuttingOver(
            connection_id,
            handoff_id,
            self._waits,
            link=link.number,
            greeting=Moved(connection_id, handoff_id, link.own_name),
            now_us=round(monotonic() * 1e6),
        )
