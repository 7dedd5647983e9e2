"""Links of Markdown texts, and the anchors that they lead to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

_FENCE: Final = r"^(?P<fence>[ ]*(`{3,}|~{3,}))[^\n]*\n.*?^(?P=fence)[`~]*[ ]*$"
_COMMENT: Final = r"<!--.*?-->"
_CODE: Final = r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"
#: Where no link can stand.
_NO_TEXT: Final = re.compile(f"{_FENCE}|{_COMMENT}|{_CODE}", re.MULTILINE | re.DOTALL)
_FENCED: Final = re.compile(_FENCE, re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<=\]\()(?P<target>[^)\s]+)(?=\))")
_HEADING: Final = re.compile(r"^#{1,6}[ ]+(?P<title>.+?)[ ]*#*$", re.MULTILINE)
#: A scheme, as https:, mailto:.
_ELSEWHERE: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class Target(NamedTuple):
    """Where a link leads: a path, empty for the same page, and an anchor, empty for the top."""

    path: str
    anchor: str


def targets(text: str) -> Iterator[Target]:
    """The targets of a page's links, without those that lead to other sites."""
    for match in _LINK.finditer(_blanked(text)):
        if not _ELSEWHERE.match(match["target"]):
            yield _target(match["target"])


def replace_paths(text: str, new_path: Callable[[str], str]) -> str:
    """The text with the path of each link made anew; links to other sites and within the page stay
    as they are."""
    pieces, at = [], 0
    for match in _LINK.finditer(_blanked(text)):
        path, anchor = _target(match["target"])
        if path and not _ELSEWHERE.match(path):
            pieces += [text[at : match.start()], new_path(path), f"#{anchor}" if anchor else ""]
            at = match.end()
    return "".join([*pieces, text[at:]])


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: in small letters, spaces as dashes,
    without punctuation, with a number where one is there already."""
    found: dict[str, int] = {}
    names = set()
    for match in _HEADING.finditer(_FENCED.sub("", text)):
        # Of a link in a heading its text counts.
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match["title"])
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def _target(text: str) -> Target:
    path, _, anchor = text.partition("#")
    return Target(path, anchor)


def _blanked(text: str) -> str:
    """The text, of the same length, with blanks where no link can be."""
    return _NO_TEXT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
