"""Format 3, which release 0.2.0 reads and writes, and the present one."""

from __future__ import annotations

import pytest

from quicbaton.baton.errors import NeedsNewerFormatError
from quicbaton.baton.seal import open_baton
from quicbaton.baton.snapshot import decode_snapshot, encode_snapshot
from quicbaton.baton.versions import downgrade_payload, upgrade_payload
from quicbaton.keys.key_ring import KeyRing
from quicbaton.testing import EndOptions, Pair
from quicbaton.transport.loss.late import ReorderingState
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
    payload = _payload(pair)
    with pytest.raises(NeedsNewerFormatError, match="BBR"):
        downgrade_payload(payload, 3)


def test_what_was_learnt_of_late_packets_is_left_out_for_format_3() -> None:
    pair = Pair()
    pair.connect()
    before = _payload(pair)
    snapshot = decode_snapshot(before)
    snapshot.connection.recovery.reordering = ReorderingState(
        packet_threshold=20, time_eighths=12, lost=[], quiet_losses=0
    )
    learnt = encode_snapshot(snapshot)
    assert learnt != before
    assert downgrade_payload(learnt, 3) == downgrade_payload(before, 3)


def _payload(pair: Pair) -> bytes:
    baton = pair.cluster.pack(pair.server.connection, now=pair.now)
    return open_baton(baton, pair.cluster.ring, None, "testing").payload
