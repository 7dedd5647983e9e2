"""Which modules are compiled, and that nothing else differs between the two forms."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hatch_build import modules
from quicbaton.build import is_compiled
from quicbaton.transport.headroom import UNTRIED
from quicbaton.transport.packets.cipher import suite_of
from quicbaton.transport.value import Value
from tests.cli.command_line import Download, Home, Server, wait_for

_ROOT = Path(__file__).parents[1]
_FILE_BYTES = 8_000_000
_RATE = 400_000


class TwoForms(Home):
    """Servers of the compiled code, as it is installed, and of the same code from `src`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._environments = {
            "compiled": self.environment,
            "python": {**self.environment, "PYTHONPATH": str(_ROOT / "src")},
        }
        for form, environment in self._environments.items():
            command = [sys.executable, "-m", "quicbaton", "--version"]
            said = subprocess.check_output(command, env=environment, text=True)
            assert said.endswith("(compiled)\n") == (form == "compiled")

    def serve_form(self, form: str, *arguments: str | Path) -> Server:
        with mock.patch.object(self, "environment", self._environments[form]):
            return self.serve(*arguments)


@pytest.fixture
def forms(tmp_path: Path) -> Iterator[TwoForms]:
    if not is_compiled():
        pytest.skip("make test-compiled runs it")
    made = TwoForms(tmp_path)
    try:
        yield made
    finally:
        made.close()


def listed() -> list[Path]:
    """The files of the modules that are compiled, below `src`."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    with contextlib.chdir(_ROOT):
        return [Path(file).relative_to("src") for file in modules(wheel["hooks"]["custom"])]


def test_all_modules_of_the_list_are_compiled_or_none() -> None:
    assert len(listed()) > 40
    for file in listed():
        spec = find_spec(".".join(file.with_suffix("").parts))
        assert spec is not None
        assert isinstance(spec.loader, ExtensionFileLoader) == is_compiled(), file


def test_classes_of_compiled_modules_have_keywords_only_by_inheritance() -> None:
    """mypyc drops a class's own: a frozen struct could be changed. mypy wants to see them."""
    for file in listed():
        tree = ast.parse((_ROOT / "src" / file).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.keywords:
                bases = [ast.unparse(base) for base in node.bases]
                keywords = [ast.unparse(keyword) for keyword in node.keywords]
                assert (bases, keywords) == (["Value"], ["frozen=True"]), f"{file}: {node.name}"


@pytest.mark.parametrize(
    "value", [UNTRIED, suite_of(0x1301)], ids=lambda value: type(value).__name__
)
def test_values_are_frozen(value: Value) -> None:
    name = value.__struct_fields__[0]
    with pytest.raises(AttributeError, match="immutable"):
        setattr(value, name, getattr(value, name))


@pytest.mark.process
def test_a_download_goes_from_form_to_form_by_takeovers(forms: TwoForms) -> None:
    content = forms.write("file.bin", _FILE_BYTES)
    server = forms.serve_form("compiled")
    client = forms.download(server, "file.bin", _RATE)
    client.wait_for_bytes(1)
    for form in ("python", "compiled", "python"):
        successor = forms.serve_form(form, "--takeover", server.control)
        assert server.process.wait(60) == 0
        server = successor
        client.wait_for_bytes(1)
    _check_whole(client, content)


@pytest.mark.process
def test_a_connection_is_handed_from_form_to_form(forms: TwoForms) -> None:
    content = forms.write("file.bin", _FILE_BYTES)
    first = forms.serve_form("python")
    client = forms.download(first, "file.bin", _RATE)
    client.wait_for_bytes(1)
    second = forms.serve_form("compiled", "--join", first.control)
    name = _the_connection(forms, first)["connection"]
    for source, destination in ((first, second), (second, first), (first, second)):
        wait_for(
            lambda server=source: _the_connection(forms, server),
            lambda connection: not connection["cutover_pending"],
        )
        forms.json("handoff", source.control, name, "--to", destination.control)
        client.wait_for_bytes(1)
    _check_whole(client, content)


def _the_connection(forms: TwoForms, server: Server) -> dict[str, Any]:
    (connection,) = forms.json("ps", server.control)["connections"]
    return connection  # type: ignore[no-any-return]


def _check_whole(client: Download, content: bytes) -> None:
    outcome = client.outcome()
    assert not outcome["error"]
    assert outcome["connections"] == 1
    assert outcome["sha256"] == hashlib.sha256(content).hexdigest()
