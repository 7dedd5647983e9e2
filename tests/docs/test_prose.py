"""Commands and options that README, docs and messages name in running text exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from bench.benchmark import discover
from quicbaton.cli.main import parser_of
from tests.commands_page import commands
from tests.docs.blocks import ROOT
from tests.docs.test_commands import StrictParser

_PAGES: Final = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "src").rglob("*.py")),
]
_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
#: An option that stands alone in a span, or first.
_OPTION: Final = re.compile(r"(--[a-z][\w-]*)(?: .*)?")
#: Stands for any command.
_ANY: Final = "quicbaton ..."
#: Labels of keys (docs/baton-format.md), which are no commands.
_LABELS: Final = {"quicbaton v1 baton", "quicbaton cluster key v1"}
#: Options of other programs -> whose they are.
_OTHERS: Final = {
    "--cacert": "curl",
    "--seconds": "make fuzz",
}
#: A word where the text leaves one out: a name or a number.
_FILLER: Final = "2"
#: Commands that are several, as `keys`.
_GROUPS: Final = {path[0] for path, _ in commands(parser_of("")) if len(path) > 1}
#: Numbers that stand for a reader's own.
_NUMBERS: Final = {"N": "2", "SECONDS": "10"}


class Span(NamedTuple):
    """Code in the running text of a page."""

    page: str
    text: str


def _spans(page: Path) -> Iterator[Span]:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for found in _SPAN.finditer(text):
        yield Span(str(page.relative_to(ROOT)), found[1])


_SPANS: Final = [span for page in _PAGES for span in _spans(page)]


def _command(span: Span) -> list[str]:
    """The words after `quicbaton`, if the span is a command of ours."""
    text = span.text.removeprefix("sudo -u quicbaton ")
    # In a message a part may be filled in.
    is_ours = text.startswith("quicbaton ") and text not in {*_LABELS, _ANY} and "{" not in text
    return shlex.split(text.partition(" | ")[0])[1:] if is_ours else []


def _check(words: list[str]) -> None:
    """ValueError unless the program understands them. What a command needs may be left out: the
    text may only name it."""
    # --help and --version end the program as soon as they are read.
    ending = ("...", "--help", "--version")
    words = [_NUMBERS.get(word, word) for word in words if word not in ending]
    if not words:
        return
    parser = parser_of(words[0], StrictParser)
    if len(words) == 1 and words[0] in _GROUPS:
        return
    while True:
        try:
            parser.parse_args(words)
        except ValueError as error:
            words = words + _missing(error)
        else:
            return


def _missing(error: ValueError) -> list[str]:
    """Words that the parser misses; the error itself if it has another cause."""
    if str(error).endswith("expected one argument"):
        return [_FILLER]
    one_of = re.match(r"one of the arguments (\S+)", str(error))
    if one_of is not None:
        return [one_of[1]]
    missing = re.fullmatch(r"the following arguments are required: (.*)", str(error))
    if missing is None:
        raise error
    names = [name.split("/")[0] for name in missing[1].split(", ")]
    return [word for name in names for word in ([name] if name.startswith("-") else []) + [_FILLER]]


@pytest.mark.parametrize("span", sorted({one for one in _SPANS if _command(one)}), ids=str)
def test_a_command_in_the_text_is_one_that_the_program_understands(span: Span) -> None:
    _check(_command(span))


def test_options_in_the_text_are_some_commands() -> None:
    known = {"--help"} | {
        option
        for _, parser in commands(parser_of(""))
        for action in parser._actions
        for option in action.option_strings
    }
    found = [(page, _OPTION.fullmatch(text)) for page, text in _SPANS]
    named = {(page, option[1]) for page, option in found if option}
    assert not {(page, option) for page, option in named if option not in known | set(_OTHERS)}
    assert {option for _, option in named} >= set(_OTHERS)


def test_targets_of_make_and_benchmarks_in_the_text_exist() -> None:
    benchmarks = discover()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, text in _SPANS:
        words = [word for word in text.split() if "=" not in word]
        if words[:1] == ["make"] and len(words) > 1:
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), (page, text)
        if "bench" in words[:-1] and words[0] in ("bench", "python", ".venv/bin/python"):
            assert words[words.index("bench") + 1] in {*benchmarks, "NAME", "redraw"}, (page, text)


def test_a_command_that_is_none_is_found() -> None:
    for text in ("frobnicate", "serve DIR --no-such", "scale many", "keys frobnicate"):
        with pytest.raises(ValueError, match=r"invalid choice|unrecognized|invalid int"):
            _check(text.split())
