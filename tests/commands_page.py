"""Writes `docs/commands.md` from the declared options: `python -m tests.commands_page`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from quicbaton.cli.main import parser_of
from quicbaton.cli.options.argument import CommandOptions, Declared, declared
from quicbaton.cli.options.serve import CheckOptions
from quicbaton.cli.options.sources import variable_of

PAGE: Final = Path(__file__).parent.parent / "docs" / "commands.md"

_HEAD: Final = (
    "# Commands and options",
    "Every command has `--help`, and `--json` for programs: one JSON object a line, mistakes "
    "included. `make commands` makes this page from the code.",
    "| exit status | meaning |\n|---|---|\n"
    "| 0 | the command was carried out |\n"
    "| 1 | it failed; with `--json`, `error` has the [reason](reasons.md) |\n"
    "| 2 | the arguments, the environment or the configuration file are not understood |\n"
    "| 130 | Ctrl-C ended it |",
    "The second and the third column of `serve`'s table have an option's key in `quicbaton.toml` "
    "and its environment variable ([how these go together](configuration.md)). `QUICBATON_CLUSTER` "
    "and `QUICBATON_NODE` hold for all commands that have `--cluster`.",
)


def page() -> str:
    """The text of the page."""
    parts = list(_HEAD)
    for path, parser in commands(parser_of("")):
        kind = parser.get_default("command")[0]
        description = " ".join((parser.description or "").split())
        parts += [f"## quicbaton {' '.join(path)}", _without_table_signs(description)]
        if kind is CheckOptions:
            parts.append("Its options are those of [`serve`](#quicbaton-serve).")
            continue
        rows = _Rows(kind, parser)
        if rows.lines:
            parts.append("\n".join([*rows.head, *rows.lines]))
    return "\n\n".join(parts) + "\n"


def commands(
    parser: argparse.ArgumentParser, *path: str
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The commands, and the commands of commands, in the order of the help."""
    if parser.get_default("command"):
        yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, its in action.choices.items():
                yield from commands(its, *path, name)


class _Rows:
    """The table of one command."""

    def __init__(self, kind: type[CommandOptions], parser: argparse.ArgumentParser) -> None:
        self._has_file = "config" in kind.__struct_fields__
        titles = ["option", "in a file", "in the environment", "meaning"]
        if not self._has_file:
            titles = ["option", "meaning"]
        self.head = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        actions = {action.dest: action for action in parser._actions}
        self.lines = [
            self._line(one, actions[one.path])
            for one in declared(kind)
            if one.path != "json" or self._has_file
        ]

    def _line(self, one: Declared, action: argparse.Action) -> str:
        cells = [_spelled(action)]
        if self._has_file:
            key = "" if one.path == "config" else f"`{one.name}`"
            cells += [key, f"`{variable_of(one, has_file=True)}`"]
        cells.append(_meaning(one, action))
        return "| " + " | ".join(cells) + " |"


def _spelled(action: argparse.Action) -> str:
    """The option with all its spellings, and with the place of its value."""
    value = "" if action.nargs == 0 else _value(action)
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{flag} {value}`".replace(" `", "`") for flag in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    metavar: Any = action.metavar or action.dest.rpartition(".")[2].upper()
    return {"+": f"{metavar} ...", "*": f"[{metavar} ...]", "?": f"[{metavar}]"}.get(
        str(action.nargs), str(metavar)
    )


def _meaning(one: Declared, action: argparse.Action) -> str:
    text = _without_table_signs(action.help or "")
    is_alone = one.field.required and one.argument.one_of is None and not one.argument.positional
    return f"{text} (required)" if is_alone else text


def _without_table_signs(text: str) -> str:
    """The text for a table's cell: code keeps its backticks, a bar would end the cell."""
    return re.sub(r"\|", r"\\|", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
