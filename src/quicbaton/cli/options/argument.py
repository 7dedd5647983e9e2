"""Options are declared once: as the annotated fields of a frozen struct.

    sleep_after: Annotated[float | None, Argument("let them sleep")] = None

is the option --sleep-after. The type decides how its text is parsed. The default is here and
nowhere else; a field without one is required. A field whose type is a struct of options stands for
all fields of that struct.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError

_O = TypeVar("_O", bound="Options")
_C = TypeVar("_C", bound="CommandOptions")
#: Placeholders for values in the help, unless their argument has one.
_METAVARS: Final = {float: "SECONDS", int: "N", Path: "FILE"}


class OneOf(NamedTuple):
    """Arguments of which at most one is given; exactly one, if it is `required`."""

    name: str
    required: bool = False


class Argument(NamedTuple):
    """The command line's part of a field: its help text, spellings and parser."""

    help: str
    metavar: str | None = None
    #: Its spellings, if they are not just the field's name.
    flags: tuple[str, ...] = ()
    positional: bool = False
    #: The option is repeated for each further value, instead of being followed by all values.
    again: bool = False
    one_of: OneOf | None = None
    #: The environment variable that has it where the command line does not.
    variable: str = ""
    #: Parses its text, where the type is not enough.
    parse: Callable[[str], object] | None = None


class Declared(NamedTuple):
    """An option: a field of a struct, or of a part of it, which `path` names as PART.FIELD."""

    path: str
    field: FieldInfo
    kind: Any  # the field's type
    argument: Argument

    @property
    def flags(self) -> tuple[str, ...]:
        """Its spellings on the command line; none for one that has its place there."""
        if self.argument.positional:
            return ()
        return self.argument.flags or ("--" + self.field.name.replace("_", "-"),)

    @property
    def names(self) -> tuple[str, ...]:
        """Its names in a file."""
        flags = self.flags or ("--" + self.field.name,)
        return tuple(flag[2:] for flag in flags if flag.startswith("--"))

    @property
    def name(self) -> str:
        """Its first name in a file."""
        return self.names[0]

    @property
    def spelling(self) -> str:
        """What a person is to write."""
        return self.flags[0] if self.flags else self.argument.metavar or self.field.name


class Options(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The options of a command, or the part of them for one subject."""


class CommandOptions(Options, frozen=True, kw_only=True):
    """The options of every command. The docstring of a command's own struct is the description in
    its help."""

    json: Annotated[bool, Argument("print JSON, one object a line")] = False


def add_command(
    commands: Any, name: str, kind: type[_C], run: Callable[[Any, Reporter], int], text: str
) -> None:
    """Add a command to argparse's `commands`, with an argument for each field of the struct `kind`.

    `text` is its line in the list of commands. The namespace that argparse returns then has `(kind,
    run)` as its `command`, and the fields that were given. `run` gets the struct; with a field
    `config`, the struct's sources, and argparse does not ask for what is required, since it may be
    elsewhere.
    """
    parser = commands.add_parser(name, help=text, description=kind.__doc__)
    parser.set_defaults(command=(kind, run))
    elsewhere = "config" in kind.__struct_fields__
    choices: dict[OneOf, Any] = {}
    for one in declared(kind):
        one_of, target = one.argument.one_of, parser
        if one_of is not None:
            if one_of not in choices:
                required = one_of.required and not elsewhere
                choices[one_of] = parser.add_mutually_exclusive_group(required=required)
            target = choices[one_of]
        if one.argument.positional:
            target.add_argument(one.path, **_settings(one))
        else:
            required = one.field.required and not elsewhere
            target.add_argument(*one.flags, dest=one.path, required=required, **_settings(one))


def make_options(kind: type[_O], given: Mapping[str, object]) -> _O:
    """The struct of parsed values by FIELD, or by PART.FIELD for a part of it.

    msgspec.ValidationError for a field that does not exist, or a value of another type.
    """
    nested: dict[str, Any] = {}
    for path, value in given.items():
        part, _, name = path.rpartition(".")
        (nested.setdefault(part, {}) if part else nested)[name] = value
    return msgspec.convert(nested, kind, dec_hook=of_text)


def encode_options(options: Options) -> str:
    """The options as JSON, for another process. Defaults are left out."""
    return msgspec.json.encode(options, enc_hook=str).decode()


def decode_options(text: str, kind: type[_O]) -> _O:
    """The options that `encode_options` has encoded, in this release or the one before.
    ConfigurationError for those of another kind."""
    try:
        given = msgspec.json.decode(text, type=dict[str, Any])
        for one in declared(kind):
            part, _, name = one.path.rpartition(".")
            values = given.get(part, {}) if part else given
            if one.argument.again and isinstance(values.get(name), str):
                # The release before knew one value.
                values[name] = [values[name]]
        return msgspec.convert(given, kind, dec_hook=of_text)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"not the options of this command: {error}") from error


def declared(kind: type[Options], prefix: str = "") -> Iterator[Declared]:
    """All options of a struct. Those of every command come last, as in the help."""
    everywhere = CommandOptions.__struct_fields__
    for field in sorted(fields(kind), key=lambda field: field.name in everywhere):
        if isinstance(field.type, type) and issubclass(field.type, Options):
            yield from declared(field.type, f"{field.name}.")
        else:
            value_type, *_, argument = get_args(field.type)
            yield Declared(prefix + field.name, field, value_type, argument)


def of_text(kind: type[Any], value: Any) -> Any:
    """msgspec's hook for a path, which is no plain value."""
    return kind(value)


# --- helpers ----------------------------------------------------------------------------------


def _settings(one: Declared) -> dict[str, Any]:
    """argparse's settings for an option. One that is not given is left out of the result."""
    field, value_type, argument = one.field, one.kind, one.argument
    settings: dict[str, Any] = {
        "help": argument.help + _shown_default(field),
        "default": argparse.SUPPRESS,
    }
    if value_type is bool:
        action = argparse.BooleanOptionalAction if field.default else "store_true"
        return settings | {"action": action}
    if get_origin(value_type) is Literal:
        return settings | {"choices": get_args(value_type)}
    kind = next((each for each in get_args(value_type) if each is not NoneType), value_type)
    # msgspec makes the paths: argparse would make one of SUPPRESS, too.
    settings["type"] = argument.parse or (kind if kind in (int, float) else None)
    settings["metavar"] = argument.metavar or _METAVARS.get(kind)
    if argument.again:
        settings["action"] = "append"
    elif get_origin(value_type) is tuple:
        settings["nargs"] = "*" if argument.positional and not field.required else "+"
    elif argument.positional and not field.required:
        settings["nargs"] = "?"
    return settings


def _shown_default(field: FieldInfo) -> str:
    """The default in the help; empty for one that is off, empty or None."""
    default = field.default
    if field.required or not default:
        return ""
    shown = "yes" if default is True else f"{default:g}" if type(default) is float else default
    return f" (default: {shown})"
