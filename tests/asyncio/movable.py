"""A node whose connections can move while they have nothing to do."""

from __future__ import annotations

import os
from pathlib import Path

from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat
from tests.asyncio.loopback import FileServer, server_configuration


class MovableServer(FileServer):
    """A file server that moves while it has nothing to do."""

    def export_state(self) -> bytes:
        return b""

    def import_state(self, data: bytes) -> None:
        self.start_http(self._http)


def movable_node(control: Path, certificate: CertificateFiles, ring: KeyRing | None = None) -> Node:
    """A node at a port of its own, which is not started; with a key of its own unless given one."""
    return Node(
        Seat(open_udp("127.0.0.1", 0)),
        control,
        ring=ring or KeyRing(ClusterKey.generate(os.urandom)),
        configuration=server_configuration(certificate),
        create_protocol=MovableServer,
    )
