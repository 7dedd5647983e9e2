"""`quicbaton inspect`: a baton's content without its secrets, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any, Final

from rich.console import Console
from rich.tree import Tree

from quicbaton.baton.header import BatonHeader, peek
from quicbaton.baton.seal import open_baton
from quicbaton.baton.snapshot import Snapshot, decode_snapshot
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import InspectOptions
from quicbaton.cli.redaction import Change, Missing, changes, redact
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.user_state import default_keys, read_keys
from quicbaton.errors import ConfigurationError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.service.peers.cluster import KEYS_FILE

#: Entries of one list that the tree shows; JSON has them all.
_MAX_ENTRIES: Final = 24


def add_parser(commands: Any) -> None:
    add_command(commands, "inspect", InspectOptions, run, "show the content of a saved connection")


def run(options: InspectOptions, reporter: Reporter) -> int:
    if options.diff:
        if len(options.files) != 2:
            raise ConfigurationError(
                f"--diff compares two batons, and {len(options.files)} are named",
                code=Reason.USAGE,
            )
        _show_changes(options, reporter)
        return 0
    for file in options.files:
        _show(file, options, reporter)
    return 0


class _Baton:
    """A baton's file, opened by a key of the rings that `resume` would use, if one fits."""

    def __init__(self, file: Path, options: InspectOptions) -> None:
        self.file = file
        self._sealed = file.read_bytes()
        self.header = peek(self._sealed)
        self.shown = _show_header(self.header, len(self._sealed))
        self._tried: list[Path] = []
        self.content = self._open(options)

    @property
    def why_sealed(self) -> str:
        """Why there is no content."""
        tried = " or ".join(map(str, self._tried)) or "any file of yours"
        return (
            f"sealed under key {self.header.key_id.hex()}, which is not in {tried}: "
            "name its file with --keys"
        )

    def _open(self, options: InspectOptions) -> Snapshot | None:
        for ring in self._rings(options):
            if options.keys is not None or ring.get(self.header.key_id) is not None:
                # As its audience at the moment it was made: an inspection resumes nothing.
                now = self.header.issued_ms / 1000
                return decode_snapshot(
                    open_baton(self._sealed, ring, now, self.header.audience).payload
                )
        return None

    def _rings(self, options: InspectOptions) -> Iterator[KeyRing]:
        """Those of the options; else those that a server would open it with."""
        candidates = [options.keys]
        if options.keys is None:
            folder = options.cluster.cluster
            candidates = [None if folder is None else folder / KEYS_FILE, default_keys()]
        for path in candidates:
            if path is not None:
                self._tried.append(path)
                yield read_keys(path)


def _show(file: Path, options: InspectOptions, reporter: Reporter) -> None:
    baton = _Baton(file, options)
    shown: dict[str, Any] = {"header": baton.shown}
    if baton.content is not None:
        shown["content"] = redact(baton.content)
    if reporter.as_json:
        reporter.value(shown)
        return
    tree = Tree(_plain(str(file)), guide_style="dim")
    for name, value in shown.items():
        _grow(tree.add(name), value)
    if baton.content is None:
        tree.add(_plain(f"content: {baton.why_sealed}"))
    Console(highlight=False, soft_wrap=True).print(tree)


def _show_changes(options: InspectOptions, reporter: Reporter) -> None:
    old, new = (_Baton(file, options) for file in options.files)
    for baton in (old, new):
        if baton.content is None:
            raise ConfigurationError(
                f"{baton.file} cannot be compared: {baton.why_sealed}", code=Reason.UNKNOWN_KEY
            )
    found = [
        *changes(old.shown, new.shown, "header"),
        *changes(old.content, new.content, "content"),
    ]
    if reporter.as_json:
        listed = [_as_json(change) for change in found]
        reporter.value({"old": str(old.file), "new": str(new.file), "changes": listed})
        return
    for change in found:
        reporter.line(_as_text(change))


def _as_json(change: Change) -> dict[str, Any]:
    """A value that is missing has no field."""
    sides = {"old": change.old, "new": change.new}
    there = {side: value for side, value in sides.items() if value is not Missing}
    return {"path": change.path, **there}


def _as_text(change: Change) -> str:
    if change.old is Missing:
        return f"+ {change.path}: {_show_flat(change.new)}"
    if change.new is Missing:
        return f"- {change.path}: {_show_flat(change.old)}"
    return f"  {change.path}: {_show_flat(change.old)} -> {_show_flat(change.new)}"


def _show_header(header: BatonHeader, size: int) -> dict[str, Any]:
    return {
        "format_version": header.version,
        "key_id": header.key_id.hex(),
        "baton_id": header.baton_id.hex(),
        "connection_id": header.connection_id.hex(),
        "term": header.term,
        "source": header.source,
        "audience": header.audience or "anybody with the key",
        "issued": _show_time(header.issued_ms),
        "expires": _show_time(header.expires_ms),
        "expired": header.expires_ms < time() * 1000,
        "bytes": size,
    }


def _show_time(unix_ms: int) -> str:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"


def _grow(tree: Tree, value: Any) -> None:
    entries: list[tuple[str, Any]]
    if isinstance(value, dict):
        entries = [(str(name), entry) for name, entry in value.items()]
    else:
        entries = [(f"[{index}]", entry) for index, entry in enumerate(value)]
    for name, entry in entries[:_MAX_ENTRIES] if isinstance(value, list) else entries:
        if isinstance(entry, dict | list) and not _is_flat(entry):
            _grow(tree.add(_plain(name)), entry)
        else:
            tree.add(_plain(f"{name}: {_show_flat(entry)}"))
    if isinstance(value, list) and len(entries) > _MAX_ENTRIES:
        tree.add(_plain(f"... {len(entries) - _MAX_ENTRIES} more"))


def _is_flat(value: Any) -> bool:
    """Whether the value fits on one line: a short list of plain values."""
    return not value or (
        isinstance(value, list)
        and len(value) <= _MAX_ENTRIES
        and not any(isinstance(entry, dict | list) for entry in value)
    )


def _show_flat(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) if value else "none"
    if value is None or value == {}:
        return "none"
    return str(value)


def _plain(text: str) -> str:
    """Text in which rich finds no markup: a server's name may contain brackets."""
    return text.replace("[", "\\[")
