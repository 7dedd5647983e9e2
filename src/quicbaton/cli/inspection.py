"""`quicbaton inspect`: a baton's content, with every secret left out.

The rule is the reverse of a list of secrets: only the byte strings named in `_SHOWN` are shown, and
they are connection IDs. Any other becomes its length, so that a field that is added to the state
tomorrow is not printed by mistake.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import time
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.tree import Tree

from quicbaton.baton.header import BatonHeader, peek
from quicbaton.baton.seal import open_baton
from quicbaton.baton.snapshot import decode_snapshot
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import InspectOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.user_state import read_keys
from quicbaton.transport.state import (
    ConnectionState,
    IdIssuedEvent,
    IdRetiredEvent,
    IdsState,
    LocalId,
    PeerId,
)

#: The byte strings that are no secrets: connection IDs, which are in every packet's header.
_SHOWN: Final[frozenset[tuple[type, str]]] = frozenset(
    {
        (ConnectionState, "name"),
        (ConnectionState, "original_id"),
        (LocalId, "cid"),
        (PeerId, "cid"),
        (IdsState, "alias"),
        (IdIssuedEvent, "cid"),
        (IdRetiredEvent, "cid"),
    }
)
#: Entries of one list that the tree shows; JSON has them all.
_MAX_ENTRIES: Final = 24


def add_parser(commands: Any) -> None:
    add_command(commands, "inspect", InspectOptions, run, "show the content of a saved connection")


def run(options: InspectOptions, reporter: Reporter) -> int:
    sealed = options.file.read_bytes()
    header = peek(sealed)
    shown: dict[str, Any] = {"header": _show_header(header, len(sealed))}
    if options.keys is not None:
        # As its audience at the moment it was made: an inspection resumes nothing.
        opened = open_baton(
            sealed, read_keys(options.keys), header.issued_ms / 1000, header.audience
        )
        shown["content"] = redact(decode_snapshot(opened.payload))
    if reporter.as_json:
        reporter.value(shown)
        return 0
    tree = Tree(f"[bold]{options.file}[/bold]", guide_style="dim")
    for name, value in shown.items():
        _grow(tree.add(name), value)
    if options.keys is None:
        tree.add("content: sealed; give its key with --keys FILE")
    Console(highlight=False, soft_wrap=True).print(tree)
    return 0


def redact(value: Any) -> Any:
    """A struct as plain values, byte strings as their lengths unless they are connection IDs."""
    if isinstance(value, msgspec.Struct):
        return {
            name: (
                getattr(value, name).hex()
                if (type(value), name) in _SHOWN
                else redact(getattr(value, name))
            )
            for name in value.__struct_fields__
        }
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {str(key): redact(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact(entry) for entry in value]
    return value


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
