"""The means to carry a connection: a cluster key, workers that issue IDs, sealed bytes.

`Cluster.pack` and `Cluster.unpack` are a handoff without its network: freeze, snapshot, encode,
seal; open, decode, resume. Between them there are only bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from quicbaton.baton.seal import BatonFields, open_baton, seal
from quicbaton.baton.snapshot import Snapshot, decode_snapshot, encode_snapshot
from quicbaton.errors import CallerError
from quicbaton.http3 import H3Connection, export_state, restore
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.quic_lb import MAX_WORKER, IdFactory, IdLayout
from quicbaton.testing.entropy import Entropy
from quicbaton.transport.connection import Connection

_NODE = 1
_HOST = b"testing"


class Unpacked(NamedTuple):
    """A connection that was resumed from bytes, with the rest of its baton."""

    connection: Connection
    http: H3Connection | None
    application: bytes
    term: int


class Cluster:
    """A cluster key and a worker for each owner. Its entropy determines everything."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self.ring = KeyRing(ClusterKey.generate(entropy))
        self.layout = IdLayout()
        self._workers = 0

    def new_worker(self) -> IdFactory:
        """The ID issuer of a worker that had no connection yet. Worker numbers wrap at a byte."""
        worker = self._workers % (MAX_WORKER + 1)
        self._workers += 1
        entropy = self._entropy.child(f"worker {self._workers}")
        return IdFactory(self.layout, _NODE, worker, entropy, self.ring)

    def pack(
        self,
        connection: Connection,
        *,
        now: float,
        http: H3Connection | None = None,
        application: bytes = b"",
        term: int = 0,
    ) -> bytes:
        """Freeze `connection` and seal it with all that belongs to it. The object is spent.

        Reasons to refuse are checked first: then the connection is unharmed.
        """
        http_state = None if http is None else export_state(http)
        state = connection.freeze(now)
        snapshot = Snapshot(
            connection=state,
            http3=http_state,
            application=application,
            frozen_at_us=round(now * 1e6),
            host=_HOST,
            precopied=None,
            relayed=[],
        )
        fields = BatonFields(
            connection_id=state.original_id, term=term, source="testing", audience="testing"
        )
        return seal(encode_snapshot(snapshot), fields, self.ring, self._entropy, now)

    def unpack(
        self,
        baton: bytes,
        *,
        now: float,
        configuration: Any = None,
        http_class: type[H3Connection] | None = None,
        on_crypto: Callable[[bytes], None] | None = None,
        other_host: bool = False,
    ) -> Unpacked:
        """Resume the connection that `pack` sealed, as a new worker. On another host no clock tells
        the transit: the worker learns it as from the source's COMMITTED."""
        opened = open_baton(baton, self.ring, now, "testing")
        snapshot = decode_snapshot(opened.payload)
        transit_us = round(now * 1e6) - snapshot.frozen_at_us
        if transit_us < 0:
            raise CallerError("a connection cannot be resumed before it was frozen")
        issuer = self.new_worker()
        connection = Connection.resume(
            snapshot.connection,
            now=now,
            transit_us=0 if other_host else transit_us,
            issuer=issuer,
            entropy=self._entropy.child(f"owner {self._workers}"),
            other_host=other_host,
            configuration=configuration,
            on_crypto=on_crypto,
        )
        if other_host:
            connection.rearm(now, missed_us=transit_us)
        http = None
        if snapshot.http3 is not None:
            http = restore(connection, snapshot.http3, http_class or H3Connection)
        return Unpacked(connection, http, snapshot.application, opened.header.term)
