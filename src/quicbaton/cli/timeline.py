"""`quicbaton timeline`: the timelines of handoffs, as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import TimelineOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.timeline_picture import draw
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError
from quicbaton.handoff.timeline import Timeline
from quicbaton.reasons import Reason

#: Begins each record of a qlog file (RFC 7464 §2.1).
_RECORD_SEPARATOR: Final = b"\x1e"


def add_parser(commands: Any) -> None:
    add_command(commands, "timeline", TimelineOptions, run, "draw the timelines of handoffs")


def run(options: TimelineOptions, reporter: Reporter) -> int:
    found = [timeline for file in options.files for timeline in read_timelines(file)]
    found.sort(key=lambda timeline: timeline.began)
    options.output.write_text(draw(found), encoding="utf-8")
    text = f"{counted(len(found), 'handoff')} drawn in {options.output}"
    reporter.event("drawn", text, file=str(options.output), handoffs=len(found))
    return 0


def read_timelines(file: Path) -> list[Timeline]:
    """The timelines in the JSON lines that commands print, or in a qlog file.

    ConfigurationError for a file that is neither, or has none.
    """
    found = [timeline for record in _records(file) if (timeline := _timeline_in(record, file))]
    if not found:
        raise ConfigurationError(
            f"{file} has no timeline of a handoff: `quicbaton handoff --json` prints one, and "
            "`quicbaton serve --qlog DIR` writes them into the files there",
            code=Reason.NOT_A_TIMELINE,
        )
    return found


def _records(file: Path) -> Iterator[Any]:
    data = file.read_bytes()
    is_qlog = data.startswith(_RECORD_SEPARATOR)
    for number, record in enumerate(data.split(_RECORD_SEPARATOR if is_qlog else b"\n"), 1):
        if not record.strip():
            continue
        try:
            yield msgspec.json.decode(record)
        except msgspec.DecodeError as error:
            if is_qlog:
                continue  # Written in part, since the disk was full or its process was killed.
            raise ConfigurationError(
                f"{file}, line {number}, is not JSON: {error}", code=Reason.NOT_A_TIMELINE
            ) from error


def _timeline_in(record: Any, file: Path) -> Timeline | None:
    """The timeline that a command's event, or an event of qlog, has."""
    if not isinstance(record, dict):
        return None
    if record.get("name") == "quicbaton:handoff_ended":
        found = record.get("data")
    else:
        found = record if "at_us" in record else record.get("timeline")
    if found is None:
        return None
    try:
        return msgspec.convert(found, Timeline)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{file} has a timeline that is none: {error}", code=Reason.NOT_A_TIMELINE
        ) from error
