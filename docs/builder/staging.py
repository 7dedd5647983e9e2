"""The sources of the site, from the repository's files.

The pages are the Markdown files of `docs`, which must read well where they lie, too. So they link
to whatever is in the repository: those files get pages of their own, under `repository/`, pictures
excepted, which are copied there. A folder is its README, or the list of what it has.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Final

from docs.builder.links import replace_paths

#: The page whose sections are the site's navigation.
INDEX: Final = PurePosixPath("docs/index.md")
_DOCS: Final = PurePosixPath("docs")
_BUILDER: Final = _DOCS / "builder"
#: Names a module or a class whose docstrings come there.
_SUBJECT: Final = re.compile(r"^<!-- (?P<kind>module|class): (?P<name>[\w.]+) -->$", re.MULTILINE)
_SECTION: Final = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!## ).*\n?)*)", re.MULTILINE)
_ENTRY: Final = re.compile(r"^\* \[[^\]]*\]\((?P<target>[^)\s#]+)\)", re.MULTILINE)
_ORPHAN: Final = "---\norphan: true\n---\n\n"
_PICTURES: Final = {".png", ".svg"}
_LANGUAGES: Final = {
    ".json": "json",
    ".html": "html",
    ".py": "python",
    ".service": "ini",
    ".sh": "bash",
    ".socket": "ini",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}


def stage(root: Path, folder: Path) -> list[PurePosixPath]:
    """Write the site's sources into `folder`, which is made anew: pages, pictures and the
    configuration of Sphinx. Returns the files of the repository that have a page.

    Raises FileNotFoundError for a link to a file that does not exist.
    """
    if folder.exists():
        shutil.rmtree(folder)
    staging = _Staging(root, folder)
    for path in sorted((root / _DOCS).rglob("*")):
        source = PurePosixPath(path.relative_to(root).as_posix())
        if path.is_file() and _BUILDER not in source.parents:
            staging.add(source)
    staging.write_all()
    shutil.copy(root / _BUILDER / "conf.py", folder / "conf.py")
    return sorted(staging.written)


def place(source: PurePosixPath) -> PurePosixPath:
    """A file's place in the site's sources. All but files of `docs` and pictures are pages, thus
    Markdown."""
    if _DOCS in source.parents:
        return source.relative_to(_DOCS)
    page = "repository" / source
    return page if page.suffix in {".md", *_PICTURES} else page.with_name(page.name + ".md")


class _Staging:
    """Pages that are written, and pages that they link to and are still to be written."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.written: set[PurePosixPath] = set()
        self._root = root
        self._folder = folder
        self._waiting: list[PurePosixPath] = []

    def add(self, source: PurePosixPath) -> None:
        if source not in self.written:
            self.written.add(source)
            self._waiting.append(source)

    def write_all(self) -> None:
        while self._waiting:
            source = self._waiting.pop()
            path, written = self._root / source, self._folder / place(source)
            written.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix in _PICTURES or (_DOCS in source.parents and source.suffix != ".md"):
                shutil.copy(path, written)
            else:
                written.write_text(self._page(source), encoding="utf-8")

    # --- helpers, in reading order --------------------------------------------------------------

    def _page(self, source: PurePosixPath) -> str:
        path = self._root / source
        if path.is_dir():
            names = sorted(each.name for each in path.iterdir() if _is_shown(each))
            return f"{_ORPHAN}# {source}\n\n" + "".join(f"* `{name}`\n" for name in names)
        text = path.read_text(encoding="utf-8")
        if source.suffix != ".md":
            return f"{_ORPHAN}# {source}\n\n{_block(text, _LANGUAGES.get(source.suffix, 'text'))}"
        text = replace_paths(text, lambda target: self._new_path(source, target))
        if source == INDEX:
            return text + "".join(_toctrees(text))
        if _DOCS in source.parents:
            return _SUBJECT.sub(_docstrings, text)
        return _ORPHAN + text

    def _new_path(self, source: PurePosixPath, target: str) -> str:
        """The path of a link in the site's sources; its target becomes a page, too."""
        linked = PurePosixPath(posixpath.normpath((source.parent / target).as_posix()))
        path = self._root / linked
        if not path.exists():
            raise FileNotFoundError(f"{source} links to {target}, which does not exist")
        if path.is_dir() and (path / "README.md").is_file():
            linked /= "README.md"
        self.add(linked)
        return posixpath.relpath(place(linked).as_posix(), place(source).parent.as_posix())


def _toctrees(index: str) -> list[str]:
    """Sphinx' navigation from the lists of a page: a section is a part, its links are the pages."""
    return [
        "\n".join(
            [
                "\n```{toctree}",
                ":hidden:",
                f":caption: {section['title']}",
                "",
                *(entry["target"] for entry in _ENTRY.finditer(section["body"])),
                "```\n",
            ]
        )
        for section in _SECTION.finditer(index)
        if _ENTRY.search(section["body"])
    ]


def _docstrings(subject: re.Match[str]) -> str:
    directive = f".. auto{subject['kind']}:: {subject['name']}"
    return f"```{{eval-rst}}\n{directive}\n   :members:\n```"


def _block(text: str, language: str) -> str:
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _is_shown(path: Path) -> bool:
    return not path.name.startswith((".", "__pycache__"))
