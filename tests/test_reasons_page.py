"""Reasons: each is used, and the page that is made from them is up to date."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from quicbaton.reasons import Reason
from quicbaton.reasons.of_connections import OF_CONNECTIONS
from quicbaton.reasons.of_processes import OF_PROCESSES
from quicbaton.reasons.of_protocols import OF_PROTOCOLS
from quicbaton.reasons.of_settings import OF_SETTINGS
from quicbaton.reasons.reason import EXPLANATIONS
from tests.reasons_page import PAGE, page


def test_the_page_of_reasons_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make reasons`"


def test_every_reason_is_given_somewhere() -> None:
    used = {
        node.attr
        for tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Reason"
    }
    # `parse` makes this of what it does not know.
    assert sorted({reason.name for reason in Reason} - used - {"UNKNOWN"}) == []


def test_every_explanation_has_its_reason() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    parts = (OF_CONNECTIONS, OF_PROCESSES, OF_SETTINGS, OF_PROTOCOLS)
    assert sum(map(len, parts)) == len(EXPLANATIONS), "a code is explained in two places"


def test_what_goes_to_other_processes_says_no_reason_of_its_own() -> None:
    """On a wire a reason is text, so mypy does not see a word that is none."""
    said = [
        word
        for tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ("Answer", "Refuse", "Abort", "StreamsCut")
        for word in _codes_of(node)
    ]
    assert said == []


def _codes_of(call: ast.Call) -> list[str]:
    """Texts where a code stands: before the message, which is the last."""
    at = 1 if ast.unparse(call.func).endswith("Answer") else 2
    words = [*call.args[at : at + 1], *(word.value for word in call.keywords if word.arg == "code")]
    return [
        word.value
        for word in words
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    ]


def _sources() -> Iterator[ast.Module]:
    for path in (PAGE.parent.parent / "src").rglob("*.py"):
        yield ast.parse(path.read_text(encoding="utf-8"))
