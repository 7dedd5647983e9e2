"""Commands and snippets of README and docs are run, from their text.

An HTML comment in the line before a block says where else it is run, or why it is not.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.cli.certificate import LOCAL_NAMES, write_self_signed
from quicbaton.cli.main import parser_of
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.docs.terminal import Terminal, free_port
from tests.supervisor.service_home import ServiceHome, service_home

_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCKS = [block for page in _PAGES for block in blocks_of(page)]
_CONSOLES = [block for block in _BLOCKS if block.language == "console"]
#: Single commands that are not run here -> why.
_ELSEWHERE = {
    "pip install quicbaton": "would replace what is tested",
    "pip install 'quicbaton[metrics]'": "would replace what is tested",
    "quicbaton handoff a CONN --to b": "tests/hosts moves between hosts with one address",
    "make demo": "tests/cli/test_demo.py runs it",
    "make test": "runs this",
}
#: What a page takes for granted.
_BEFORE = {
    "docs/handoff-timeline.md": [
        "quicbaton serve ./files --port 4433",
        "quicbaton serve ./files --join SOCKET",
        "quicbaton save SOCKET CONNECTION conn.baton",
    ],
    "docs/moving-many.md": [
        "quicbaton keys init cluster --node a=10.0.0.1 --node b=10.0.0.2 --node c=10.0.0.3",
        "export QUICBATON_CLUSTER=cluster",
        "quicbaton serve ./files --workers 2 --node-name a",
    ],
}
#: A command -> what runs instead of what ran until then.
_FIRST = {
    "quicbaton reload 4433 --timelines --json >> run.jsonl": (
        "quicbaton serve ./files --port 4433 --workers 2"
    ),
}
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BROKEN = re.compile(r"fails: (\S+) is broken")


def _name(block: Block) -> str:
    return f"{block.page}:{block.line}"


def _is_run(block: Block) -> bool:
    return not block.note.startswith(("not run: ", "run by: "))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made


@pytest.mark.process
@pytest.mark.parametrize("page", sorted({block.page for block in _CONSOLES if _is_run(block)}))
def test_the_commands_of_a_page_succeed_one_after_the_other(page: str, home: ServiceHome) -> None:
    terminal = Terminal(home)
    for command in _BEFORE.get(page, ()):
        terminal.run(command)
    for block in _BLOCKS:
        if block.page != page or not _is_run(block):
            continue
        if block.text.startswith("# quicbaton.toml"):
            terminal.write("quicbaton.toml", block.text)
        if block.language != "console":
            continue
        broken = _BROKEN.fullmatch(block.note)
        if broken:
            terminal.write(broken[1], "nothing that Python understands")
            (command,) = block.commands
            # The page shows the end of it, too.
            said = block.text.partition("\n")[2].partition("SyntaxError")[0]
            assert said in terminal.run_in_vain(command)
            continue
        for command in block.commands:
            if command in _FIRST:
                terminal.run(_FIRST[command])
            if command not in _ELSEWHERE:
                terminal.run(command)


def test_blocks_that_are_not_run_here_say_why_or_name_the_test_that_runs_them() -> None:
    notes = [block.note for block in _CONSOLES if not _is_run(block)]
    for note in notes:
        how, _, text = note.partition(": ")
        assert text
        assert how == "not run" or (ROOT / text.partition("::")[0]).is_file(), note
    # Another block that is not run is a decision.
    assert Counter(note.partition(":")[0] for note in notes) == {"run by": 9, "not run": 2}


def test_every_command_that_is_not_run_is_still_in_the_text() -> None:
    typed = {command for block in _CONSOLES for command in block.commands}
    assert typed >= set(_ELSEWHERE)


def test_commands_are_in_console_blocks_alone() -> None:
    others = [block for block in _BLOCKS if block.language in ("", "sh")]
    assert not [_name(block) for block in others if re.search(r"^quicbaton \w", block.text, re.M)]


class StrictParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@pytest.mark.parametrize("block", _CONSOLES, ids=_name)
def test_every_command_is_one_that_the_program_understands(block: Block) -> None:
    for command in block.commands:
        words = shlex.split(command)
        words = words[3:] if words[:2] == ["sudo", "-u"] else words
        if words[0] != "quicbaton":
            continue
        words = words[1:]
        words = words[:-1] if words[-1] == "&" else words
        for sign in (">", ">>"):
            words = words[: words.index(sign)] if sign in words else words
        parser_of(words[0], StrictParser).parse_args(words)


@pytest.mark.parametrize(
    "block",
    [one for one in _BLOCKS if one.language in ("python", "json", "toml") and _is_run(one)],
    ids=_name,
)
def test_snippets_are_whole_and_what_they_import_is_there(block: Block) -> None:
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        tree = ast.parse(block.text, _name(block))
        names: dict[str, object] = {
            "msgspec": msgspec,
            "QuicConfiguration": QuicConfiguration,
            "QuicConnectionProtocol": QuicConnectionProtocol,
        }
        # Calls at the top need what only a program has.
        tree.body = [part for part in tree.body if isinstance(part, _DEFINITIONS)]
        exec(compile(tree, _name(block), "exec"), names)


@pytest.mark.process
async def test_the_program_in_the_readme_answers(home: ServiceHome) -> None:
    (text,) = [one.text for one in _BLOCKS if one.page == "README.md" and "asyncio.run" in one.text]
    port = free_port()
    (home.path / "program.py").write_text(text.replace("4433", str(port)))
    now = datetime.datetime.now(datetime.UTC)
    files = write_self_signed(home.path, now, LOCAL_NAMES)
    assert {files.certificate.name, files.key.name} == {"cert.pem", "key.pem"}
    home.start("program")
    configuration = QuicConfiguration(alpn_protocols=["echo"], cafile=str(files.certificate))
    async with connect("localhost", port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
