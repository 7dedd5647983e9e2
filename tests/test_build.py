"""Which modules are compiled, and that nothing else differs between the two forms."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from pathlib import Path

import pytest

from hatch_build import modules
from quicbaton.build import is_compiled
from quicbaton.transport.headroom import UNTRIED
from quicbaton.transport.packets.cipher import suite_of
from quicbaton.transport.value import Value
from tests.cli.two_codes import TwoCodes

_ROOT = Path(__file__).parents[1]


class TwoForms(TwoCodes):
    """Servers of the compiled code, as it is installed; the other is the same code from `src`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _ROOT / "src")
        for environment in (self.environment, self.environment_of_other):
            command = [sys.executable, "-m", "quicbaton", "--version"]
            said = subprocess.check_output(command, env=environment, text=True)
            assert said.endswith("(compiled)\n") == (environment == self.environment)


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
    compiled, python = forms.serve, forms.serve_other
    forms.take_over_in_turn(compiled, [python, compiled, python])


@pytest.mark.process
def test_a_connection_is_handed_from_form_to_form(forms: TwoForms) -> None:
    forms.hand_to_and_fro(forms.serve_other, forms.serve)
