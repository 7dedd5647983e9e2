"""`python -m demo`, or `make demo`: see it happen, and get the figures."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import msgspec

from demo.display import Display
from demo.picture import draw
from demo.play import play
from demo.recording import checks, figures


def main() -> int:
    """Exit status 0 only when everything held that the demo is to show."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Start two servers and libcurl, hand the download's connection back and "
        "forth, kill the server that accepted it, and compare the hash at the end.",
    )
    parser.add_argument(
        "--json", type=Path, dest="figures", metavar="FILE", help="write the figures to FILE"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("demo.svg"),
        metavar="FILE",
        help="where to draw throughput and handoffs (default: demo.svg)",
    )
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("two processes behind one UDP port need Linux")
    display = Display()
    with tempfile.TemporaryDirectory(prefix="quicbaton-demo-") as folder, display:
        recording = asyncio.run(play(Path(folder), display))
    found = figures(recording)
    held = checks(recording, found)
    draw(recording, found, options.picture)
    if options.figures is not None:
        encoded = msgspec.json.format(msgspec.json.encode(found))
        options.figures.write_bytes(encoded + b"\n")
    display.summary(held, found, str(options.picture))
    return 0 if all(check.held for check in held) else 1


if __name__ == "__main__":
    sys.exit(main())
