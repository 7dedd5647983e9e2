"""Format 3, which release 0.2.0 reads and writes, and the present one."""

from __future__ import annotations

import pytest

from quicbaton.baton.errors import NeedsNewerFormatError
from quicbaton.baton.seal import open_baton
from quicbaton.baton.snapshot import decode_snapshot, encode_snapshot
from quicbaton.baton.versions import downgrade_payload, upgrade_payload
from quicbaton.keys.key_ring import KeyRing
from quicbaton.testing import EndOptions, Pair
from tests.releases.sample import Sample, read_all

SAMPLES = [sample for sample in read_all() if sample.release == "0.2.0"]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_connection_of_format_3_is_the_same_after_a_way_through_the_present_one(
    sample: Sample,
) -> None:
    for baton in (sample.client, sample.server):
        present = open_baton(baton, KeyRing.parse(sample.key), None, "testing").payload
        snapshot = decode_snapshot(present)
        assert encode_snapshot(snapshot) == present
        released = downgrade_payload(present, 3)
        assert len(released) < len(present)
        assert upgrade_payload(released, 3) == present
        assert snapshot.connection.congestion.bbr is None


def test_format_3_cannot_say_what_bbr_knows() -> None:
    pair = Pair(server=EndOptions(algorithm="bbr"))
    pair.connect()
    baton = pair.cluster.pack(pair.server.connection, now=pair.now)
    payload = open_baton(baton, pair.cluster.ring, None, "testing").payload
    with pytest.raises(NeedsNewerFormatError, match="BBR"):
        downgrade_payload(payload, 3)
