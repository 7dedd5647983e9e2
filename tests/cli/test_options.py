"""Options: what the command line says, as structs."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import FieldInfo, fields

from quicbaton.cli.main import parse, parser_of
from quicbaton.cli.options.argument import (
    Argument,
    CommandOptions,
    Options,
    add_command,
    decode_options,
    encode_options,
    make_options,
)
from quicbaton.cli.options.argument import (
    declared as all_declared,
)
from quicbaton.cli.options.commands import PsOptions, TopOptions
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.errors import ConfigurationError


class Described(NamedTuple):
    """A command as argparse has it, and its struct."""

    names: tuple[str, ...]
    kind: type[CommandOptions]
    parser: argparse.ArgumentParser

    @property
    def actions(self) -> dict[str, argparse.Action]:
        return {action.dest: action for action in self.parser._actions if action.dest != "help"}


def commands(
    parser: argparse.ArgumentParser | None = None, names: tuple[str, ...] = ()
) -> Iterator[Described]:
    """All commands, those of `keys` one by one."""
    parser = parser or parser_of("")
    found = parser.get_default("command")
    if found is not None:
        yield Described(names, found[0], parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from commands(below, (*names, name))


def declared(kind: type[Options], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All fields of a struct and of its parts."""
    for field in fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Options):
            yield from declared(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def said(action: argparse.Action) -> list[str]:
    """An argument, with a value that is nobody's default."""
    value = "/7" if action.type is None else "7"
    if action.dest == "config":
        value = os.devnull  # an empty file
    if action.choices:
        value = [*action.choices][-1]
    flag = action.option_strings[-1:]
    return flag if action.nargs == 0 else [*flag, value]


ALL = list(commands())
everywhere = pytest.mark.parametrize("command", ALL, ids=[" ".join(one.names) for one in ALL])


@everywhere
def test_a_command_has_an_argument_for_each_field_of_its_struct(command: Described) -> None:
    assert sorted(command.actions) == sorted(path for path, _ in declared(command.kind))


@everywhere
def test_an_argument_fills_its_field_and_no_other(command: Described) -> None:
    needed = {path: action for path, action in command.actions.items() if action.required}
    exclusive: dict[Any, list[argparse.Action]] = {}
    for one in all_declared(command.kind):
        if one.argument.one_of is not None and one.argument.one_of.required:
            exclusive.setdefault(one.argument.one_of, []).append(command.actions[one.path])
    for path, action in command.actions.items():
        chosen = needed | {path: action}
        for group in exclusive.values():
            if not any(one in chosen.values() for one in group):
                chosen[group[0].dest] = group[0]
        # An option that takes several values would take the positional ones, too.
        ordered = sorted(chosen.values(), key=lambda one: bool(one.option_strings))
        options, _ = parse([*command.names, *(word for one in ordered for word in said(one))])
        filled = [
            name
            for name, field in declared(command.kind)
            if field.required or attrgetter(name)(options) != field.default
        ]
        assert sorted(filled) == sorted(chosen)
        assert type(options) is command.kind


@everywhere
def test_help_says_the_struct_s_defaults(command: Described) -> None:
    defaults = {path: field.default for path, field in declared(command.kind)}
    for path, action in command.actions.items():
        shown = re.search(r"\(default: ([^()]*)\)$", str(action.help))
        default = None if action.required else defaults[path]
        if default is True:
            assert shown is not None
            assert shown[1] == "yes"
        elif default:
            assert shown is not None
            assert type(default)(shown[1]) == default
        # It is said in words what becomes of things when nothing is given.
        elif shown is not None and shown[1].isdigit():
            assert int(shown[1]) == default


def test_an_option_that_no_struct_declares_is_a_mistake() -> None:
    with pytest.raises(msgspec.ValidationError, match="sever"):
        make_options(PsOptions, {"sever": "4433"})


def test_a_field_that_no_argument_fills_is_a_mistake() -> None:
    class Forgotten(CommandOptions, frozen=True, kw_only=True):
        named: Annotated[str, Argument("something")] = ""
        unnamed: str = ""

    with pytest.raises(ValueError):
        add_command(
            argparse.ArgumentParser().add_subparsers(), "x", Forgotten, lambda *_: 0, "nothing"
        )


@pytest.mark.parametrize("given", [{"port": "4433"}, {"port": 65_536}, {"logs.log_level": "loud"}])
def test_a_value_of_another_type_is_a_mistake(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_options(ServeOptions, given)


def test_options_cannot_be_changed() -> None:
    options = ServeOptions()
    with pytest.raises(AttributeError):
        options.port = 1  # type: ignore[misc]


def test_a_worker_gets_the_options_that_its_supervisor_was_given() -> None:
    given = ["main:app", "--workers=3", "--reload-dir=a", "--reload-dir=b", "--metrics=[::1]:9100"]
    options, _ = parse(["serve", *given, "--no-access-log", "--log-level=debug", "--json"])
    assert isinstance(options, ServeOptions)
    assert options.watch.reload_dir == (Path("a"), Path("b"))
    assert options.metrics == ("::1", 9100)
    text = encode_options(options)
    assert decode_options(text, ServeOptions) == options
    # A newer worker's defaults are its own.
    assert "port" not in text


def test_certificates_are_given_once_or_several_times() -> None:
    options, _ = parse(["serve", "x", "--cert=a", "--key=b", "--ssl-certfile=c", "--ssl-keyfile=d"])
    assert isinstance(options, ServeOptions)
    assert options.tls.cert == (Path("a"), Path("c"))
    assert options.tls.key == (Path("b"), Path("d"))


def test_a_supervisor_of_release_0_2_gives_its_workers_one_certificate() -> None:
    options = decode_options('{"tls":{"cert":"a.pem","key":"k.pem"},"port":0}', ServeOptions)
    assert options.tls.cert == (Path("a.pem"),)
    assert options.tls.key == (Path("k.pem"),)


def test_options_that_a_worker_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cipher"):
        decode_options('{"tls": {"cipher": "none"}}', ServeOptions)


def test_the_environment_names_the_cluster_unless_an_option_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICBATON_CLUSTER", "one")
    monkeypatch.setenv("QUICBATON_NODE", "")
    options, _ = parse(["top"])
    assert isinstance(options, TopOptions)
    assert (options.cluster.cluster, options.cluster.node_name) == (Path("one"), None)
    options, _ = parse(["top", "--cluster", "two"])
    assert isinstance(options, TopOptions)
    assert options.cluster.cluster == Path("two")


def test_structs_need_nothing_that_runs_a_command() -> None:
    program = (
        "import sys, quicbaton.cli.options.commands, quicbaton.cli.options.serve;"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    unneeded = {"aioquic", "asyncio", "cryptography", "rich", "ssl", "quicbaton.service"}
    assert not unneeded & set(done.stdout.split())
