"""`quicbaton timeline` draws what the records say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import msgspec
import pytest

from quicbaton.cli.main import main
from quicbaton.handoff.timeline import Seen, Timeline
from tests.cli.command_line import Home, check_whole
from tests.cli.test_moving import begin

_SVG = "{http://www.w3.org/2000/svg}"
_BEGAN = datetime(2026, 11, 29, 10, 0, tzinfo=UTC)
_AT_US = {
    "copy": 1,
    "offer": 20,
    "accept": 180,
    "freeze": 200,
    "snapshot": 250,
    "baton": 400,
    "ready": 900,
    "commit": 1000,
    "first_datagram": 1200,
    "last_forward": 9000,
    "cutover": 101_200,
    "end": 101_250,
}


class Drawn(NamedTuple):
    """A bar: its tooltip, and where it is."""

    text: str
    x: float
    y: float
    width: float


def timeline(**fields: object) -> Timeline:
    """The record of a handoff that went well, but for these fields."""
    values: dict[str, object] = {
        "number": 1,
        "pid": 7,
        "connection": "0c000000efd1f1f76b08",
        "seen_by": Seen.BY_SOURCE,
        "source": "/run/user/0/quicbaton/4433.sock",
        "destination": "b/1",
        "began": _BEGAN,
        "at_us": _AT_US,
        "baton_bytes": 12_345,
        "forwards": 3,
        "blackout_us": 950,
        "outcome": "given",
        "code": "ok",
        "message": "given away in term 2",
        **fields,
    }
    return Timeline(**values)  # type: ignore[arg-type]


def write(file: Path, *timelines: Timeline) -> Path:
    """As `handoff --json` prints them, among other lines."""
    lines = [msgspec.json.encode({"event": "ready", "port": 1})]
    lines += [msgspec.json.encode({"event": "handed_over", "timeline": one}) for one in timelines]
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def picture(folder: Path, *files: Path) -> ElementTree.Element:
    out = folder / "out.svg"
    assert main(["timeline", *map(str, files), "-o", str(out)]) == 0
    return ElementTree.parse(out).getroot()


def bars(root: ElementTree.Element) -> list[Drawn]:
    return [
        Drawn(title.text or "", *(float(shape.attrib[name]) for name in ("x", "y", "width")))
        for shape in root.iter(f"{_SVG}rect")
        if (title := shape.find(f"{_SVG}title")) is not None
    ]


def texts(root: ElementTree.Element) -> list[str]:
    return [shape.text or "" for shape in root.iter(f"{_SVG}text")]


def test_bars_are_as_long_as_the_phases_and_say_so(tmp_path: Path) -> None:
    root = picture(tmp_path, write(tmp_path / "run.jsonl", timeline()))
    drawn = bars(root)
    took = {
        "copying ahead": (0, 20),
        "asking": (20, 200),
        "freezing, sealing": (200, 400),
        "rebuilding": (400, 900),
        "committing": (900, 1000),
        "resuming": (1000, 1200),
    }
    assert [bar.text for bar in drawn[:-1]] == [
        f"{name}: {end - start} µs" for name, (start, end) in took.items()
    ]
    scale = (drawn[5].x + drawn[5].width - drawn[0].x) / 1200
    for bar, (start, end) in zip(drawn, took.values(), strict=False):
        assert bar.x - drawn[0].x == pytest.approx(start * scale, abs=0.02)
        assert bar.width == pytest.approx((end - start) * scale, abs=0.02)
    # The client's round trip is on a scale of its own.
    assert drawn[-1].text == "forwarding, until the cutover: 100 ms"
    assert drawn[-1].x > drawn[-2].x + drawn[-2].width
    found = texts(root)
    assert "0c000000efd1f1f7" in found
    assert "4433 → b/1" in found
    assert "given · blackout 950 µs · baton 12,345 bytes · 3 forwarded" in found
    assert {"0 µs", "200 µs", "400 µs", "1.2 ms", "20 ms", "100 ms"} <= set(found)


def test_handoffs_have_a_row_each_in_the_order_of_their_beginnings(tmp_path: Path) -> None:
    late = timeline(connection="bb" * 10, began=_BEGAN + timedelta(seconds=1))
    files = (
        write(tmp_path / "late.jsonl", late),
        write(tmp_path / "early.jsonl", timeline(connection="aa" * 10)),
    )
    root = picture(tmp_path, *files)
    assert [text for text in texts(root) if text in ("a" * 16, "b" * 16)] == ["a" * 16, "b" * 16]
    rows = sorted({bar.y for bar in bars(root)})
    assert len(rows) == 2
    assert float(root.attrib["height"]) > rows[1] > rows[0]


def test_a_handoff_that_failed_ends_with_the_thaw_and_the_reason(tmp_path: Path) -> None:
    at_us = {"offer": 5, "accept": 90, "freeze": 100, "baton": 300, "thaw": 900, "end": 910}
    kept = timeline(
        at_us=at_us, outcome="kept", code="baton_seal", blackout_us=None, destination="<&>"
    )
    root = picture(tmp_path, write(tmp_path / "run.jsonl", kept))
    assert bars(root)[-1].text == "taking back: 600 µs"
    assert "4433 → <&>" in texts(root)
    assert "kept · baton_seal · baton 12,345 bytes · 3 forwarded" in texts(root)


def test_a_handoff_that_never_came_to_a_phase_has_a_row(tmp_path: Path) -> None:
    refused = timeline(at_us={}, outcome="kept", code="cutover_pending", blackout_us=None)
    root = picture(tmp_path, write(tmp_path / "run.jsonl", refused))
    assert not bars(root)
    assert "4433 → b/1" in texts(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no timeline"),
        (b'{"event": "ready"}\n', "has no timeline"),
        (b'{"event": "ready"}\n{"event"\n', "line 2, is not JSON"),
        (b'{"timeline": {"pid": "x"}}\n', "a timeline that is none"),
        (b'\x1e{"name": "transport:packet_sent", "data": {}}\n', "has no timeline"),
    ],
)
def test_a_file_without_a_timeline_is_refused(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.jsonl"
    file.write_bytes(content)
    assert main(["timeline", str(file), "-o", str(tmp_path / "out.svg"), "--json"]) == 1
    error = msgspec.json.decode(capsys.readouterr().err)
    assert error["error"] == "not_a_timeline"
    assert said in error["message"]
    assert not (tmp_path / "out.svg").exists()


@pytest.mark.process
def test_what_a_handoff_printed_and_what_qlog_has_can_be_drawn(home: Home) -> None:
    folder = home.path / "qlog"
    first = home.serve("--qlog", folder)
    second = home.serve("--join", first.control, "--qlog", folder)
    content, client, connection, (owner, other) = begin(home, first, second)
    told = home.run("handoff", owner.control, connection, "--to", other.control, "--json")
    printed = home.path / "run.jsonl"
    printed.write_text(told.stdout)
    check_whole(client, content)
    assert [server.stop() for server in (first, second)] == [0, 0]
    (qlog,) = folder.iterdir()
    assert len([row for row in texts(picture(home.path, printed)) if "→" in row]) == 1
    assert len([row for row in texts(picture(home.path, qlog)) if "→" in row]) == 2
