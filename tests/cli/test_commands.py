"""The command line as a whole: its commands, and the modules that each imports."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import subprocess
import sys

import pytest

from quicbaton.build import is_compiled
from quicbaton.cli.main import COMMANDS, main


@pytest.mark.parametrize("module", COMMANDS)
def test_a_module_has_the_commands_that_are_looked_for_there(module: str) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"quicbaton.cli.{module}").add_parser(commands)
    assert tuple(commands.choices) == COMMANDS[module]


@pytest.mark.parametrize("argument", ["--help", "nonsense"])
def test_all_commands_are_named_to_those_who_name_none(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([argument])
    said = "".join(capsys.readouterr())
    assert all(command in said for commands in COMMANDS.values() for command in commands)


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    form = " (compiled)" if is_compiled() else ""
    assert capsys.readouterr().out.strip() == importlib.metadata.version("quicbaton") + form


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        ("ps 4433 --json", {"aioquic", "h2", "h11", "rich", "wsproto", "quicbaton.asyncio"}),
        ("reload --json", {"aioquic", "h2", "h11", "rich", "wsproto", "quicbaton.asyncio"}),
        ("serve .", {"h2", "h11", "rich", "wsproto", "quicbaton.asgi"}),
    ],
)
def test_a_command_imports_nothing_that_it_does_not_need(
    arguments: str, unneeded: set[str]
) -> None:
    """A user of `ps` need not wait for the import of a QUIC stack."""
    program = (
        "import sys; from quicbaton.cli.main import parse;"
        f"parse({arguments.split()}); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    assert not unneeded & set(done.stdout.split())
