"""A snapshot as plain values without a secret, and what differs between two.

The rule is the reverse of a list of secrets: only the byte strings named in `_SHOWN` are shown, and
they are connection IDs. Any other becomes its length, so that a field that is added to the state
tomorrow is not printed by mistake.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from quicbaton.baton.snapshot import RelayedStream
from quicbaton.transport.state import (
    ConnectionState,
    IdIssuedEvent,
    IdRetiredEvent,
    IdsState,
    LocalId,
    PathState,
    PeerId,
    SentRun,
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
#: The field by which an entry of a list is the same in both snapshots; others are by position.
_NAMED_BY: Final[dict[type, str]] = {
    LocalId: "sequence",
    PeerId: "sequence",
    PathState: "serial",
    SentRun: "first",
    RelayedStream: "stream_id",
}


class Missing:
    """In place of a value that one of the two snapshots does not have."""


class Change(NamedTuple):
    """A value that is not the same in both, redacted. `path` is as in Python: `a.b[3].c`, with the
    key of a dict, or what names an entry of a list (`[sequence=3]`), in the brackets."""

    path: str
    old: Any
    new: Any


def redact(value: Any) -> Any:
    """A struct as plain values, byte strings as their lengths unless they are connection IDs."""
    if isinstance(value, msgspec.Struct):
        return {name: _redact_field(value, name) for name in value.__struct_fields__}
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {str(key): redact(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact(entry) for entry in value]
    return value


def changes(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """What differs, in the order of the fields. A secret that has changed is there, too: as its
    lengths."""
    if old == new:
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for name in old.__struct_fields__:
            before, after = getattr(old, name), getattr(new, name)
            inner = f"{path}.{name}" if path else name
            if (type(old), name) in _SHOWN and before != after:
                yield Change(inner, before.hex(), after.hex())
            else:
                yield from changes(before, after, inner)
    elif isinstance(old, dict) and isinstance(new, dict):
        yield from _changed_entries(old, new, path)
    elif isinstance(old, list) and isinstance(new, list) and _has_structs(old, new):
        yield from _changed_entries(_by_name(old), _by_name(new), path)
    else:
        yield Change(path, _redact_value(old), _redact_value(new))


def _changed_entries(
    old: dict[Hashable, Any], new: dict[Hashable, Any], path: str
) -> Iterator[Change]:
    for key in dict.fromkeys([*old, *new]):
        is_name = isinstance(key, str) and key.isidentifier()
        inner = f"{path}.{key}" if is_name else f"{path}[{key}]"
        if key in old and key in new:
            yield from changes(old[key], new[key], inner)
        else:
            one = _redact_value(old.get(key, Missing)), _redact_value(new.get(key, Missing))
            yield Change(inner, *one)


def _has_structs(*lists: Sequence[Any]) -> bool:
    return any(isinstance(entry, msgspec.Struct) for entries in lists for entry in entries)


def _by_name(entries: Sequence[Any]) -> dict[Hashable, Any]:
    """The entries of a list by what names them."""
    named: dict[Hashable, Any] = {}
    for position, entry in enumerate(entries):
        field = _NAMED_BY.get(type(entry))
        named[position if field is None else f"{field}={getattr(entry, field)}"] = entry
    return named


def _redact_value(value: Any) -> Any:
    return value if value is Missing else redact(value)


def _redact_field(struct: msgspec.Struct, name: str) -> Any:
    value = getattr(struct, name)
    return value.hex() if (type(struct), name) in _SHOWN else redact(value)
