"""Builds the site into build/docs, warnings as errors: `python -m docs.builder`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sphinx.cmd.build import main as sphinx

from docs.builder.staging import stage

_ROOT: Final = Path(__file__).parents[2]


def build(folder: Path) -> int:
    """Build the site into `folder`; 0, or Sphinx' exit status."""
    sources = folder.with_name(folder.name + "-sources")
    stage(_ROOT, sources)
    # --keep-going: all mistakes are shown, not only the first.
    status: int = sphinx(["-q", "-W", "--keep-going", "-b", "html", str(sources), str(folder)])
    return status


if __name__ == "__main__":
    sys.exit(build(Path(*sys.argv[1:]) if sys.argv[1:] else _ROOT / "build" / "docs"))
