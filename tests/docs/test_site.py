"""The documentation's site: its sources, and that it builds without warnings."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from docs.builder.staging import INDEX, place, stage
from quicbaton.build import is_compiled

_ROOT = Path(__file__).parents[2]


def written(folder: Path, **files: str) -> Path:
    """A repository with these files, where __ in a name is a slash and _ before its end a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "docs" / "builder").mkdir(parents=True)
    (folder / "docs" / "builder" / "conf.py").write_text("project = 'a trial'\n")
    return folder


def test_links_out_of_docs_lead_to_pages_of_the_site(tmp_path: Path) -> None:
    root = written(
        tmp_path / "root",
        docs__guide_md="[readme](../README.md#start), [code](../src/a.py), [folder](../examples)",
        README_md="[guide](docs/guide.md) and [code](src/a.py)",
        src__a_py="print('``` inside')\n",
        examples__b_txt="b",
    )
    pages = stage(root, tmp_path / "sources")
    assert PurePosixPath("src/a.py") in pages
    sources = tmp_path / "sources"
    assert (sources / "guide.md").read_text() == (
        "[readme](repository/README.md#start), [code](repository/src/a.py.md), "
        "[folder](repository/examples.md)"
    )
    readme = (sources / "repository" / "README.md").read_text()
    assert readme.endswith("[guide](../guide.md) and [code](src/a.py.md)")
    code = (sources / "repository" / "src" / "a.py.md").read_text()
    assert code.endswith("````python\nprint('``` inside')\n````\n")
    assert "* `b.txt`" in (sources / "repository" / "examples.md").read_text()


def test_a_folder_is_its_readme(tmp_path: Path) -> None:
    root = written(
        tmp_path / "root", docs__a_md="[e](../examples)", examples__README_md="[a](../docs/a.md)"
    )
    stage(root, tmp_path / "sources")
    assert (tmp_path / "sources" / "a.md").read_text() == "[e](repository/examples/README.md)"


def test_a_picture_from_outside_docs_stays_a_picture(tmp_path: Path) -> None:
    root = written(tmp_path / "root", docs__a_md="![p](../bench/p.svg)", bench__p_svg="<svg></svg>")
    stage(root, tmp_path / "sources")
    assert (tmp_path / "sources" / "a.md").read_text() == "![p](repository/bench/p.svg)"
    assert (tmp_path / "sources" / "repository" / "bench" / "p.svg").read_text() == "<svg></svg>"


def test_what_is_code_is_no_link(tmp_path: Path) -> None:
    text = "```python\nx[0](no.md)\n```\n`y[0](no.md)` [a](a.md)"
    root = written(tmp_path / "root", docs__a_md=text)
    stage(root, tmp_path / "sources")
    assert (tmp_path / "sources" / "a.md").read_text() == text


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    root = written(tmp_path / "root", docs__a_md="[gone](../gone.md)")
    with pytest.raises(FileNotFoundError, match=r"docs/a\.md links to \.\./gone\.md"):
        stage(root, tmp_path / "sources")


def test_sections_of_the_index_are_the_navigation(tmp_path: Path) -> None:
    root = written(
        tmp_path / "root",
        docs__index_md="# All\n\n[no](b.md)\n\n## Guides\n\n* [A](a.md): so\n* [R](../R.md)\n",
        docs__a_md="# A",
        docs__b_md="# B",
        R_md="# R",
    )
    stage(root, tmp_path / "sources")
    index = (tmp_path / "sources" / "index.md").read_text()
    assert index.endswith(
        "\n```{toctree}\n:hidden:\n:caption: Guides\n\na.md\nrepository/R.md\n```\n"
    )


def test_docstrings_come_where_a_module_is_named(tmp_path: Path) -> None:
    root = written(tmp_path / "root", docs__api_md="# API\n\n<!-- module: a.b -->\n")
    stage(root, tmp_path / "sources")
    text = (tmp_path / "sources" / "api.md").read_text()
    assert ".. automodule:: a.b\n   :members:" in text


def test_every_page_of_docs_is_in_the_navigation(tmp_path: Path) -> None:
    stage(_ROOT, tmp_path / "sources")
    navigation = (tmp_path / "sources" / place(INDEX)).read_text(encoding="utf-8")
    toctrees = navigation.partition("```{toctree}")[2].split()
    pages = {path.relative_to(_ROOT / "docs").as_posix() for path in (_ROOT / "docs").rglob("*.md")}
    missing = pages - {"index.md"} - set(toctrees)
    assert not missing, "add them to the lists of docs/index.md"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("sphinx") is None:
        if os.environ.get("CI") and not is_compiled():
            pytest.fail("Sphinx is missing: `make docs` installs it")
        pytest.skip("no Sphinx here: `make docs` installs it")
    done = subprocess.run(
        [sys.executable, "-m", "docs.builder", str(tmp_path / "site")],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in ("quicbaton.asyncio.serve", "quicbaton.testing.move", "quicbaton.errors.PeerError"):
        assert f'id="{name}"' in api
    # Pictures, styles and scripts come with the site.
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text
        assert 'rel="stylesheet" type="text/css" href="http' not in text
