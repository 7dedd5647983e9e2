"""What `serve` says of a program that it cannot serve."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from quicbaton.cli.program import load_program
from quicbaton.errors import ConfigurationError

Refuse = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """The message about a program, from its source, by the name that is asked for."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def message(source: str, name: str = "refused:app", *, factory: bool = False) -> str:
        (tmp_path / "refused.py").write_text(textwrap.dedent(source))
        for module in ("refused", "beside_refused"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(ConfigurationError) as caught:
            load_program(name, folder=tmp_path, factory=factory)
        return str(caught.value)

    return message


def test_an_error_while_importing_names_the_lines_of_the_program(
    refused: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "beside_refused.py").write_text("def read(text):\n    return int(text)\n")
    said = refused("import beside_refused\nnumber = beside_refused.read('many')\n")
    assert said.splitlines() == [
        "cannot import refused: ValueError: invalid literal for int() with base 10: 'many'",
        f"  {tmp_path}/refused.py, line 2: number = beside_refused.read('many')",
        f"  {tmp_path}/beside_refused.py, line 2, in read: return int(text)",
    ]


def test_a_syntax_error_names_its_line(refused: Refuse, tmp_path: Path) -> None:
    said = refused("x = 1\ndef app(:\n")
    first, *frames = said.splitlines()
    assert first.startswith("cannot import refused: SyntaxError: ")
    assert frames == [f"  {tmp_path}/refused.py, line 2: def app(:"]


def test_a_module_that_is_missing_says_where_it_is_looked_for(
    refused: Refuse, tmp_path: Path
) -> None:
    said = refused("", "nowhere_at_all.app:app")
    assert "No module named 'nowhere_at_all'" in said
    assert f"{tmp_path} first (--app-dir" in said
    # One that the program asks for is the program's affair.
    said = refused("import nowhere_at_all")
    assert "--app-dir" not in said
    assert f"{tmp_path}/refused.py, line 1" in said


_TWO = """
from asyncio import sleep
async def application(scope, receive, send): ...
class Callable:
    async def __call__(self, scope, receive, send): ...
other = Callable()
value = 3
"""


def test_a_name_that_is_no_program_says_what_it_is_and_what_there_is(
    refused: Refuse, tmp_path: Path
) -> None:
    there = "; it has refused:application, refused:other"
    file = tmp_path / "refused.py"
    assert refused(_TWO) == f"{file} has no class or function 'app': there is none{there}"
    said = refused(_TWO, "refused:value")
    assert said == f"{file} has no class or function 'value': it is an int{there}"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("def app(environ, start_response): ...", "it is a WSGI program"),
        ("def app(): ...", "--factory"),
        ("async def app(scope): ...", "an ASGI 3 program takes (scope, receive, send)"),
        (
            "from quicbaton.asyncio import QuicConnectionProtocol\n"
            "class app(QuicConnectionProtocol):\n"
            "    def __init__(self, connection): ...",
            "takes (connection, stream_handler=...)",
        ),
    ],
)
def test_a_program_that_cannot_be_called_is_refused(
    refused: Refuse, tmp_path: Path, source: str, hint: str
) -> None:
    said = refused(source)
    assert f"refused:app in {tmp_path}/refused.py takes (" in said
    assert hint in said


def test_a_factory_that_fails_names_its_line(refused: Refuse, tmp_path: Path) -> None:
    said = refused("def app():\n    raise KeyError('SECRET')", factory=True)
    assert said.splitlines() == [
        "cannot make the program refused:app: KeyError: 'SECRET'",
        f"  {tmp_path}/refused.py, line 2, in app: raise KeyError('SECRET')",
    ]
