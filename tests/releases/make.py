"""Keeps the present version for ever: its wheel, and samples of what it seals.

    python -m tests.releases.make

Run it once, when CHANGELOG.md and pyproject.toml name the version that is released.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from tests.releases.sample import FOLDER, take
from tests.releases.scenes import SCENES


def main() -> int:
    release = version("quicbaton")
    folder = FOLDER / release
    if folder.exists():
        print(f"{folder} exists: what was released is not made anew", file=sys.stderr)
        return 1
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), "."]
    subprocess.run(build, cwd=Path(__file__).parents[2], check=True)
    for scene in SCENES:
        sample = take(scene(), scene.__name__, release)
        (folder / f"{sample.name}.sample").write_bytes(msgspec.msgpack.encode(sample))
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:9,} {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
