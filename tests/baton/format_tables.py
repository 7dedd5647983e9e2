"""The tables of docs/baton-format.md, and what they should say of a struct's fields."""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from quicbaton.transport.state import Address, Event, SentFrame

PAGE: Final = Path(__file__).parents[2] / "docs" / "baton-format.md"
_ROW: Final = re.compile(r"\| (\d+) \| `(\w+)` \| (.+?) \| (.+) \|")
_PLAIN: Final = {
    int: "int",
    bool: "bool",
    float: "float",
    str: "str",
    bytes: "bin",
    bytearray: "bin",
}


class Row(NamedTuple):
    """A field: its place in the array, from 0 on, its name, its type and its meaning."""

    place: int
    name: str
    type: str
    meaning: str

    @property
    def since(self) -> int:
        """The format that is the first to have it."""
        match = re.search(r"\(since format (\d+)\)$", self.meaning)
        return int(match[1]) if match else 3


def read_tables() -> dict[str, list[Row]]:
    """The page's tables of fields, by the heading before each."""
    tables: dict[str, list[Row]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            heading = line[4:]
        elif match := _ROW.fullmatch(line):
            place, name, kind, meaning = match.groups()
            tables.setdefault(heading, []).append(Row(int(place), name, kind, meaning))
    return tables


def spell(kind: Any) -> str:  # noqa: PLR0911 - a list of types
    """A field's type, as the page names it."""
    if kind == Address:
        return "[Address](#other-types)"
    if kind == SentFrame:
        return "[SentFrame](#other-types)"
    if kind == Event:
        return "[event](#events)"
    if kind in _PLAIN:
        return _PLAIN[kind]
    arguments = get_args(kind)
    origin = get_origin(kind)
    if origin is Literal:
        return "str"
    if origin in (UnionType, Union):
        kinds = [spell(each) for each in arguments if each is not NoneType]
        return " or ".join([*kinds, *(["nil"] if NoneType in arguments else [])])
    if origin is list:
        return f"array of {spell(arguments[0])}"
    if origin is tuple:
        return f"({', '.join(map(spell, arguments))})"
    if origin is dict:
        return f"map of {spell(arguments[0])} to {spell(arguments[1])}"
    assert issubclass(kind, msgspec.Struct), kind
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def structs_of(kind: Any) -> list[type[msgspec.Struct]]:
    """The struct and all that its fields may hold, each once, in the order of the fields."""
    found: list[type[msgspec.Struct]] = []

    def look(kind: Any) -> None:
        is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        if is_struct and kind not in found:
            found.append(kind)
            for field in msgspec.structs.fields(kind):
                look(field.type)
        for argument in get_args(kind):
            look(argument)

    look(kind)
    return found
