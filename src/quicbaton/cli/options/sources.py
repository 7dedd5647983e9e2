"""The values of options, from where they are given: the command line before the environment before
a file before the declared defaults.

A file is TOML, without tables; its keys are the options as they are spelled on the command line,
without the dashes in front:

    folder = "main:app"
    port = 443
    workers = 4
    reload-dir = ["templates"]

The environment has them as QUICBATON_PORT, QUICBATON_RELOAD_DIR. Relative paths in a file are
relative to its folder.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_origin

import msgspec

from quicbaton.cli.options.argument import (
    Declared,
    Options,
    declared,
    make_options,
    of_text,
)
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

_O = TypeVar("_O", bound=Options)

#: The file that is read where no other is named, if there is one.
DEFAULT_FILE: Final = Path("quicbaton.toml")
_PREFIX: Final = "QUICBATON_"
_MODULE_AND_NAME: Final = re.compile(r"[\w.]+:\w+")
_YES_OR_NO: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


class Given(NamedTuple):
    """A value, and who gave it, for people."""

    value: Any
    origin: str


class Sources(Generic[_O]):
    """The sources of one command's options, which may be read again."""

    def __init__(self, kind: type[_O], line: Mapping[str, Any]) -> None:
        """`line` has the command line's values by path; with `config` among the fields of `kind`,
        its options may be in a file and in the environment, too."""
        self._kind = kind
        self._line = dict(line)
        self._declared = {one.path: one for one in declared(kind)}
        self.has_file = "config" in self._declared

    def read(self) -> _O:
        """The options as their sources are now. Raises ConfigurationError with the source of a
        value that cannot be."""
        given = self.given()
        self._check_complete(given)
        return make_options(self._kind, {path: one.value for path, one in given.items()})

    def given(self) -> dict[str, Given]:
        """The values that anybody gave, by path, in the order of their declaration."""
        line = {path: Given(value, "command line") for path, value in self._line.items()}
        environment = dict(self._in_environment())
        merged: dict[str, Given] = {}
        for layer in (self._in_file(environment | line), environment, line):
            # One that excludes others replaces those of weaker sources.
            groups = {self._declared[path].argument.one_of for path in layer} - {None}
            merged = {
                path: one
                for path, one in merged.items()
                if self._declared[path].argument.one_of not in groups
            } | layer
        return {path: merged[path] for path in self._declared if path in merged}

    def all(self) -> dict[str, Given]:
        """The values of all options by the names that a file has for them."""
        given = self.given()
        return {
            one.name: given.get(one.path, Given(one.field.default, "default"))
            for one in self._declared.values()
        }

    # --- helpers, in reading order --------------------------------------------------------------

    def _in_environment(self) -> Iterator[tuple[str, Given]]:
        for path, one in self._declared.items():
            variable = variable_of(one, has_file=self.has_file)
            text = os.environ.get(variable, "") if variable else ""
            if text:
                yield path, Given(_of_variable(one, text, variable), variable)

    def _in_file(self, stronger: Mapping[str, Given]) -> dict[str, Given]:
        if not self.has_file:
            return {}
        named = stronger.get("config")
        path = DEFAULT_FILE if named is None else Path(named.value)
        if named is None and not path.is_file():
            return {}
        names = {name: one for one in self._declared.values() for name in one.names}
        del names["config"]
        found: dict[str, Given] = {}
        for key, value in _load(path).items():
            name = key.replace("_", "-")
            one = names.get(name)
            if one is None:
                raise _unknown(path, key, names)
            if one.path in found:
                raise _mistake(path, f"{key} is there twice, as {one.name}, too")
            found[one.path] = Given(_of_file(one, value, path, key), str(path))
        self._check_exclusive(path, found)
        return found

    def _check_exclusive(self, path: Path, found: Mapping[str, Given]) -> None:
        groups: dict[Any, str] = {}
        for one in (self._declared[each] for each in found):
            group = one.argument.one_of
            if group is not None and groups.setdefault(group, one.name) != one.name:
                raise _mistake(path, f"{groups[group]} and {one.name} exclude each other")

    def _check_complete(self, given: Mapping[str, Given]) -> None:
        needed: dict[Any, list[Declared]] = {}
        for one in self._declared.values():
            group = one.argument.one_of
            if one.field.required or (group is not None and group.required):
                needed.setdefault(group or one.path, []).append(one)
        for alternatives in needed.values():
            if not any(one.path in given for one in alternatives):
                names = " or ".join(one.spelling for one in alternatives)
                where = f", here or in {DEFAULT_FILE}" if self.has_file else ""
                raise ConfigurationError(f"{names} is missing{where}", code=Reason.USAGE)


def variable_of(one: Declared, *, has_file: bool) -> str:
    """The environment variable that has an option; empty if none has. Those of a command that has a
    file are all in the environment, too."""
    if one.argument.variable or not has_file:
        return one.argument.variable
    return _PREFIX + one.name.upper().replace("-", "_")


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _mistake(path, str(error)) from error
    except OSError as error:
        raise _mistake(path, error.strerror or str(error)) from error


def _of_file(one: Declared, value: Any, path: Path, key: str) -> Any:
    """A field's value from TOML's."""
    if isinstance(value, dict):
        raise _mistake(path, f"[{key}]: there are no tables, each option has a line of its own")
    parse = one.argument.parse
    if get_origin(one.kind) is tuple and parse is None and not isinstance(value, list):
        value = [value]
    if parse is not None:
        value = _parsed(parse, str(value), lambda why: _mistake(path, f"{key}: {why}"))
    made = _converted(one, value, lambda why: _mistake(path, f"{key}: {why}"))
    return _relative_to(path.parent, made)


def _of_variable(one: Declared, text: str, variable: str) -> Any:
    """A field's value from the text of an environment variable."""

    def mistake(why: str) -> ConfigurationError:
        hint = ""
        if re.match(r"(tcp|udp)://", text):
            # Kubernetes sets NAME_PORT for each Service, also for one that is called quicbaton.
            hint = "; Kubernetes sets it for a Service of that name: set enableServiceLinks: false"
        return ConfigurationError(f"{variable}={text}: {why}{hint}", code=Reason.USAGE)

    if one.argument.parse is not None:
        return _converted(one, _parsed(one.argument.parse, text, mistake), mistake)
    if one.kind is bool:
        if text.lower() not in _YES_OR_NO:
            raise mistake("expected yes or no")
        return _YES_OR_NO[text.lower()]
    if get_origin(one.kind) is tuple:
        return _converted(one, text.split(os.pathsep), mistake)
    return _converted(one, text, mistake, strict=False)


def _parsed(
    parse: Callable[[str], object], text: str, mistake: Callable[[str], ConfigurationError]
) -> object:
    try:
        return parse(text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise mistake(str(error)) from error


def _converted(
    one: Declared, value: Any, mistake: Callable[[str], ConfigurationError], *, strict: bool = True
) -> Any:
    try:
        return msgspec.convert(value, one.field.type, strict=strict, dec_hook=of_text)
    except msgspec.ValidationError as error:
        raise mistake(str(error)) from error


def _relative_to(folder: Path, value: Any) -> Any:
    """Paths as the folder's. A program's name, which may stand for a folder, is none."""
    if isinstance(value, tuple):
        return tuple(_relative_to(folder, each) for each in value)
    if not isinstance(value, Path):
        return value
    return value if _MODULE_AND_NAME.fullmatch(str(value)) else folder / value


def _mistake(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {why}", code=Reason.USAGE)


def _unknown(path: Path, key: str, names: Mapping[str, Declared]) -> ConfigurationError:
    near = difflib.get_close_matches(key.replace("_", "-"), names, n=1)
    hint = f": {near[0]}?" if near else "; `quicbaton serve --help` shows all"
    return _mistake(path, f"there is no option {key!r}{hint}")
