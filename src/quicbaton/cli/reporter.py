"""The output of commands: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from quicbaton.reasons import Reason


class Stream(Protocol):
    """The destination of lines."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class Reporter:
    """Writes to standard output without delay. Errors go to standard error."""

    def __init__(self, *, as_json: bool, out: Stream | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Report an event: as `text`, or as an object of `event`, `time` and `fields`."""
        if self.as_json:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self.value({"event": name, "time": now, **fields})
        else:
            self.line(text)

    def value(self, value: Any) -> None:
        """Print one JSON value on a line."""
        self.line(msgspec.json.encode(value).decode())

    def line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def error(self, code: Reason, message: str, **fields: Any) -> None:
        """Report why the command ends. `fields` appear in JSON only."""
        if self.as_json:
            text = msgspec.json.encode({"error": code, "message": message, **fields}).decode()
        else:
            text = f"quicbaton: {message}"
        with contextlib.suppress(OSError):  # the exit status says it, too
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
