"""`quicbaton demo`: see it happen, and get the figures."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError

_NEEDS = ("pycurl", "matplotlib")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="hand a live download from process to process",
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
    parser.set_defaults(run=run, as_json=False)


def run(options: argparse.Namespace, _reporter: Reporter) -> int:
    """Exit status 0 only when everything held that the demo is to show."""
    if not sys.platform.startswith("linux"):
        raise ConfigurationError("two processes behind one UDP port need Linux", code="platform")
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the demo needs {' and '.join(missing)}: pip install 'quicbaton[demo]'",
            code="missing",
        )
    # Only now: the extras may not be installed.
    from quicbaton.cli.demo.display import Display  # noqa: PLC0415
    from quicbaton.cli.demo.picture import draw  # noqa: PLC0415
    from quicbaton.cli.demo.play import play  # noqa: PLC0415
    from quicbaton.cli.demo.recording import checks, figures  # noqa: PLC0415

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
