"""Encrypted connection IDs of a service with several workers, and a rotation of its key."""

from __future__ import annotations

import os

import pytest

from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.cli.command_line import check_whole
from tests.supervisor.service_home import FILE_BYTES, ServiceHome

pytestmark = pytest.mark.process


def test_workers_get_their_encrypted_ids_from_the_kernel_through_a_key_rotation(
    home: ServiceHome,
) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--ids", "encrypted")
    assert service.ready["steered"]
    old = KeyRing.parse(home.keys.read_text()).active
    new = ClusterKey.generate(os.urandom, beside=[old])
    downloads = service.download_everywhere("file.bin")
    # Everybody can open what the new key seals; everybody seals with it.
    for ring in (KeyRing(old, [new]), KeyRing(new, [old])):
        home.keys.write_text(ring.encode())
        done = home.run("reload", "--json")
        assert done.returncode == 0, done.stderr
    downloads += service.download_everywhere("file.bin")
    for download in downloads:
        check_whole(download, content)
    assert [worker["tossed"] for worker in service.status()] == [0, 0]
    assert service.stop() == 0
