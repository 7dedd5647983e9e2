"""Batons that are refused when they are opened, while the source can still thaw."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import RefusedError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from tests.asyncio.loopback import http_client
from tests.asyncio.movable import movable_node


async def test_a_destination_without_room_refuses_before_the_commit(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    ring = KeyRing(ClusterKey.generate(os.urandom))
    source, destination = (
        movable_node(tmp_path / f"{name}.sock", certificate, ring)
        for name in ("source", "destination")
    )
    source.endpoint.start()
    async with http_client(certificate, int(source.endpoint.udp.address[1])) as client:
        await client.get(10)
        (session,) = source.endpoint.sessions.values()
        name, sealed = session.connection.name, list[bytes]()
        await source.handoffs.save(session, sealed.append)

        budget = destination.endpoint.budget
        others = budget.open(b"other connections")
        others.note(budget.total_bytes - 1, 0)
        with pytest.raises(RefusedError) as caught:
            destination.handoffs.resume_file(sealed[0])
        assert caught.value.code == "memory_full"
        others.close()

        destination.endpoint.table._max_owners = 3
        with pytest.raises(RefusedError) as caught:
            destination.handoffs.resume_file(sealed[0])
        assert caught.value.code == "routing_table_full"

        source.handoffs.cancel_saves(Reason.TAKEOVER, "it stays")
        await asyncio.sleep(0)
        assert source.endpoint.has(name)
        await client.get(10)
    source.close()
    destination.close()


async def test_a_ping_that_waits_fails_when_its_connection_goes_on_in_another_object(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    node = movable_node(tmp_path / "node.sock", certificate)
    node.endpoint.start()
    async with http_client(certificate, int(node.endpoint.udp.address[1])) as client:
        await client.get(10)
        (session,) = node.endpoint.sessions.values()
        udp, sent = node.endpoint.udp, list[object]()
        real_send = udp.send
        udp.send = lambda train: sent.append(train) or True  # type: ignore[func-returns-value,method-assign]
        waiting = asyncio.ensure_future(session.protocol.ping())
        closed = asyncio.ensure_future(session.protocol.wait_closed())
        await asyncio.sleep(0)
        assert sent
        await node.handoffs.save(session, list[bytes]().append)
        udp.send = real_send  # type: ignore[method-assign]
        node.handoffs.cancel_saves(Reason.TAKEOVER, "it stays")
        with pytest.raises(ConnectionError):
            await waiting
        await closed
        (thawed,) = node.endpoint.sessions.values()
        assert thawed.protocol is not session.protocol
        await thawed.protocol.ping()
    node.close()


async def test_a_connection_that_moved_need_not_prove_itself_again(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    node = movable_node(tmp_path / "node.sock", certificate)
    node.endpoint.start()
    port = int(node.endpoint.udp.address[1])
    async with http_client(certificate, port) as client, http_client(certificate, port) as other:
        await client.get(10)
        await other.get(10)
        moving, staying = node.endpoint.sessions.values()
        await node.handoffs.save(moving, list[bytes]().append)
        node.handoffs.cancel_saves(Reason.TAKEOVER, "it stays")
        moved = node.endpoint.session_of(moving.connection.name)
        assert moved is not None
        served = list[object]()
        moved.receive = served.append  # type: ignore[method-assign]
        batch = [
            Datagram(b"\x40" + session.connection.issued_ids()[0], ("127.0.0.1", 1), (), 0)
            for session in (staying, moved)
        ]
        node.endpoint.deliver(batch)
        assert served == [[batch[1]]]
    node.close()
