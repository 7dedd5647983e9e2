"""`--json`: whole lines of JSON from every command, in one vocabulary, mistakes included."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from quicbaton.cli.main import COMMANDS, main, parser_of
from quicbaton.cli.options.argument import CommandOptions, declared
from tests.supervisor.service_home import FILE_BYTES, Service, ServiceHome, service_home

_NAMES: Final = [name for names in COMMANDS.values() for name in names]
#: One thing, one word: a worker has been a slot, a time a timestamp.
_NOT_SAID: Final = {"slot", "timestamp", "ts", "date"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made


def parsers(
    parser: argparse.ArgumentParser, *path: str
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with its parser, and the commands of a command."""
    if path:
        yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, its in action.choices.items():
                yield from parsers(its, *path, name)


def mistakes() -> Iterator[tuple[str, ...]]:
    """Arguments that cannot be: an unknown option of each command, and for each option that takes
    a number, or one of a few words, another."""
    for path, parser in parsers(parser_of("")):
        yield *path, "--no-such-option"
        kind, _ = parser.get_default("command") or (CommandOptions, None)
        for one in declared(kind):
            action = next((each for each in parser._actions if each.dest == one.path), None)
            takes = action is not None and (action.type in (int, float) or action.choices)
            if takes and one.flags:
                yield *path, one.flags[0], "no-such-value"


def test_every_command_has_its_parser() -> None:
    found = [path[0] for path, _ in parsers(parser_of("")) if len(path) == 1]
    assert sorted(found) == sorted(_NAMES)


@pytest.mark.parametrize("arguments", [*mistakes(), ("no-such-command",), ()], ids=" ".join)
def test_a_mistake_is_one_line_of_json(arguments: tuple[str, ...]) -> None:
    out, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main([*arguments, "--json"])
    assert ended.value.code == 2
    assert out.getvalue() == ""
    (line,) = errors.getvalue().splitlines()
    said = json.loads(line)
    assert said["error"] == "usage"
    assert said["message"]
    assert said["usage"].startswith("usage: quicbaton")


class Session:
    """Commands with --json, and what they print."""

    def __init__(self, home: ServiceHome) -> None:
        self.home = home
        self.ran: set[str] = {"serve"}  # a service's own events are read as JSON all along

    def run(self, *arguments: str | Path, succeeds: bool = True) -> list[dict[str, Any]]:
        self.ran.add(str(arguments[0]))
        done = self.home.run(*arguments, "--json")
        assert (done.returncode == 0) is succeeds, done.stderr
        assert done.stdout == "" or done.stdout.endswith("\n")
        assert bool(done.stderr) is not succeeds
        said = [json.loads(line) for line in done.stdout.splitlines()]
        failures = [json.loads(line) for line in done.stderr.splitlines()]
        for value in said:
            check(value)
        for failure in failures:
            assert {"error", "message"} <= failure.keys()
        assert said or failures
        return said


def check(value: dict[str, Any]) -> None:
    """An object of a command's output. An event has its name and when it was."""
    assert isinstance(value, dict)
    if "event" in value:
        assert datetime.fromisoformat(value["time"]).tzinfo is not None
    assert not _keys(value) & _NOT_SAID


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()


def go(session: Session, service: Service) -> None:
    """Every command that a running service takes, and some that fail."""
    home, port = session.home, str(service.port)
    service.download_everywhere("file.bin")
    baton, other, picture = (home.path / name for name in ("baton", "other", "picture.svg"))
    session.run("get", f"https://localhost:{port}/small", "--ca", home.ca, "-o", home.path / "out")
    session.run("ps", port)
    session.run("ps")
    session.run("workers", port)
    session.run("top", port, "--count", "1", "--interval", "0.1")
    first, second = service.status()
    name = min(service.names(0))
    (moved,) = [
        one
        for one in session.run("handoff", first["control"], name, "--to", second["control"])
        if one.get("event") == "handed_over"
    ]
    (home.path / "timelines.json").write_text(json.dumps(moved))
    session.run("timeline", home.path / "timelines.json", "--output", picture)
    session.run("handoff", first["control"], "ffff", "--to", second["control"], succeeds=False)
    saved = min(service.names(1) - {name})
    session.run("save", port, saved, baton)
    session.run("inspect", baton)
    session.run("resume", baton, "--to", port)
    session.run("resume", baton, "--to", port, succeeds=False)
    session.run("inspect", other, succeeds=False)
    session.run("drain", first["control"], "--to", second["control"])
    session.run("drain", first["control"], "--undo")
    session.run("rebalance", port)
    session.run("check", home.files)
    session.run("check", home.path / "nothing", succeeds=False)
    session.run("reload", port)
    session.run("scale", "3", port)
    session.run("upgrade", port)
    session.run("keys", "init", home.path / "cluster", "--node", "a=10.0.0.1")
    session.run("keys", "show", home.path / "cluster")
    session.run("stop", port)
    session.run("workers", "1", succeeds=False)


@pytest.mark.process
def test_every_command_prints_whole_lines_of_json(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    home.write("small", 1000)
    session = Session(home)
    go(session, home.service(2))
    assert session.ran == set(_NAMES)
