"""The estimate of how late timers come."""

from __future__ import annotations

import pytest

from quicbaton.asyncio.endpoint.lateness import Lateness


def test_timers_that_come_late_again_and_again_are_expected_to() -> None:
    lateness = Lateness()
    for _ in range(50):
        lateness.note(0.02)
    assert lateness.seconds == pytest.approx(0.02, rel=0.01)
    for _ in range(50):
        lateness.note(-0.0001)  # clocks are read one after the other
    assert 0 <= lateness.seconds < 0.0001


def test_a_process_that_was_stopped_for_an_hour_is_no_busy_one() -> None:
    lateness = Lateness()
    lateness.note(3_600)
    assert lateness.seconds < 0.02
