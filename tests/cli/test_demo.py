"""The demo: its figures from a recording, and a short run of all of it."""

import itertools
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from demo.curl import Outcome, Progress
from demo.display import Display
from demo.distance import Distance, DistanceScript
from demo.picture import draw
from demo.play import Script, play
from demo.recording import (
    Counts,
    Handoff,
    Recording,
    checks,
    figures,
    throughput,
)

MS = 1_000_000
SECOND = 1000 * MS


def recording(**changes: object) -> Recording:
    """12 s at a piece every 10 ms, ten handoffs a second apart with a pause of 25 ms at each."""
    handoffs = [
        Handoff(1 + n % 2, 2 - n % 2, (n + 1) * SECOND, (n + 1) * SECOND + 4 * MS)
        for n in range(10)
    ]
    samples: list[tuple[int, int]] = []
    at = 50 * MS
    while at < 12 * SECOND:
        samples.append((at, (len(samples) + 1) * 1000))
        paused = any(at < h.asked_ns <= at + 10 * MS for h in handoffs)
        at += 25 * MS if paused else 10 * MS
    outcome = Outcome(
        error="",
        status=200,
        http3=True,
        received_bytes=samples[-1][1],
        sha256="right",
        connections=1,
        started_ns=0,
        connected_ns=20 * MS,
        first_byte_ns=samples[0][0],
        ended_ns=12 * SECOND,
        samples=samples,
    )
    made = Recording(
        size=samples[-1][1],
        sha256="right",
        first_owner=1,
        processes=(1, 2),
        handoffs=handoffs,
        killed_ns=11 * SECOND,
        outcome=outcome,
        counts={1: Counts(1, 400, 30), 2: Counts(0, 600, 70)},
        distance=Distance(50, [7.5, 8.5, 30.0], [7.0, 8.0], [210.0, 215.0, 212.0]),
    )
    return msgspec.structs.replace(made, **changes)


def failed(made: Recording) -> list[str]:
    return [check.name for check in checks(made, figures(made)) if not check.held]


def test_a_run_that_showed_everything_has_these_figures() -> None:
    made = recording()
    found = figures(made)
    assert failed(made) == []
    assert (found.sha256_ok, found.handoffs, found.handshakes) == (True, 10, 1)
    assert found.killed_original_owner
    assert found.direct_share == {1: 0.3, 2: 0.6}
    assert found.gap_ms.p50 == found.gap_ms.max == 25
    assert found.quiet_gap_ms.p50 == 10
    far = found.far
    assert far.delay_ms == 50
    assert (far.gap_ms.p50, far.gap_ms.max, far.quiet_gap_ms.p50) == (8.5, 30, 7.5)
    assert far.reconnect_ms.p50 == 212


def test_everything_that_must_hold_can_fail() -> None:
    good = recording()
    broken = msgspec.structs.replace(good.outcome, sha256="wrong")
    short = msgspec.structs.replace(good.outcome, ended_ns=9 * SECOND)
    assert failed(recording(outcome=broken)) == ["sha256"]
    assert failed(recording(outcome=short)) == ["duration", "SIGKILL"]
    assert failed(recording(handoffs=good.handoffs[:9])) == ["handoffs"]
    assert failed(recording(killed_ns=0)) == ["SIGKILL"]
    reconnected = {1: Counts(1, 400, 30), 2: Counts(1, 600, 70)}
    assert failed(recording(counts=reconnected)) == ["handshakes"]
    relayed = {1: Counts(1, 400, 90), 2: Counts(0, 600, 10)}
    assert failed(recording(counts=relayed)) == ["pid 2"]
    assert failed(recording(size=good.size + 1)) == ["sha256"]


def test_owners_follow_each_other_without_a_hole() -> None:
    owners = recording().owners()
    assert [pid for _, _, pid in owners] == [1, 2] * 5 + [1]
    assert owners[0][0] == 50 * MS
    assert owners[-1][1] == 12 * SECOND
    assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(owners))


def test_throughput_is_counted_per_step() -> None:
    samples = [(5, 1000), (15, 3000), (16, 4000), (35, 5000)]
    assert throughput(samples, 0, 40, 10) == [
        (5, 100_000),
        (15, 300_000),
        (25, 0),
        (35, 100_000),
    ]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    made = recording()
    draw(made, figures(made), tmp_path / "demo.svg")
    root = ElementTree.parse(tmp_path / "demo.svg").getroot()
    assert root.tag.endswith("svg")


def test_a_picture_of_a_run_without_distance_is_drawn(tmp_path: Path) -> None:
    made = recording(distance=None)
    draw(made, figures(made), tmp_path / "demo.svg")
    assert ElementTree.parse(tmp_path / "demo.svg").getroot() is not None


class _Recorder(Display):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def progress(self, progress: Progress) -> None:
        self.seen += 1
        super().progress(progress)


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs SO_REUSEPORT steering")
async def test_a_short_run_ends_well_and_kills_the_process_that_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir(mode=0o700)
    # Seconds between the kill and the end: on a busy machine either may be late.
    distance = DistanceScript(rate_bytes_per_s=400_000, seconds=4, reconnects=3)
    script = Script(file_bytes=10_000_000, rate_bytes_per_s=400_000, handoffs=3, distance=distance)
    with _Recorder() as display:
        made = await play(folder, display, script)
    found = figures(made)
    assert found.sha256_ok
    assert (found.handoffs, found.handshakes, found.killed_original_owner) == (3, 1, True)
    assert made.distance is not None
    assert made.distance.handoffs_ms
    assert made.distance.quiet_ms
    # Two round trips through the link, which may be half a millisecond early at each end.
    assert len(made.distance.reconnects_ms) == 3
    assert min(made.distance.reconnects_ms) > 4 * (distance.delay_ms - 1)
    # Too short a run, and nothing else is wrong with it.
    assert set(failed(made)) <= {"duration", "handoffs"}
    assert display.seen > 3
    draw(made, found, tmp_path / "demo.svg")
    display.summary(checks(made, found), found, "demo.svg")
    output = capsys.readouterr().out
    assert "handoff  3" in output
    assert "SIGKILL" in output
