"""A node's answer to another node that asks for a worker which is not there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from quicbaton.errors import PeerError
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.tls import connect_tls
from tests.processes.cluster_folder import Door, make_cluster


class Absent(Door):
    """Only these workers are there, whichever is asked for."""

    present: list[int]

    async def _deliver(self, target: str, sock: socket.socket) -> None:
        self.incoming.take(sock, present=self.present)


@pytest.mark.parametrize(
    ("present", "said"),
    [
        ([0], "node b has no worker 99; it has 0:"),
        ([2, 0, 1, 5], "node b has no worker 99; it has 0-2,5:"),
        ([], "node b has no worker that serves now"),
        # More than fits into the line is left out, and no number is cut in two.
        (list(range(0, 98, 2)), "56,58,60,...:"),
    ],
)
async def test_it_says_which_workers_it_has(tmp_path: Path, present: list[int], said: str) -> None:
    folder = make_cluster(tmp_path / "cluster", "a", "b")
    door = Absent(Cluster(folder, "b"))
    door.present = present
    with pytest.raises(PeerError) as caught:
        await connect_tls(Cluster(folder, "a"), "b", "99")
    assert caught.value.code == "no_such_worker"
    assert said in str(caught.value)
    assert not door.channels
    assert door.incoming.refused == {"no_such_worker": 1}
    door.close()
