"""Options of `quicbaton serve`: how many requests an ASGI program gets, at once and in the life of
a worker."""

from __future__ import annotations

import argparse
from typing import Any

from quicbaton.errors import ConfigurationError


def add_options(parser: Any) -> None:
    parser.add_argument(
        "--limit-concurrency",
        type=int,
        metavar="N",
        help="answer requests of an ASGI program with 503 while a process works on so many "
        "(default: no limit)",
    )
    parser.add_argument(
        "--limit-max-requests",
        type=int,
        metavar="N",
        help="with --workers: replace a worker, as `quicbaton reload` does, when its ASGI program "
        "was begun with so many requests (default: never)",
    )
    parser.add_argument(
        "--limit-max-requests-jitter",
        type=int,
        default=0,
        metavar="N",
        help="with --limit-max-requests: up to so many more, for each worker by chance (default: "
        "0)",
    )


def check(options: argparse.Namespace) -> None:
    """ConfigurationError for limits that are none, or that nobody would keep."""
    for name, least in (
        ("limit_concurrency", 1),
        ("limit_max_requests", 1),
        ("limit_max_requests_jitter", 0),
    ):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigurationError(f"{_spell(name)} is {least} at least, got {value}")
    if options.limit_max_requests is None:
        if options.limit_max_requests_jitter:
            raise ConfigurationError(
                "--limit-max-requests-jitter is added to --limit-max-requests: give that, too"
            )
    elif options.workers is None:
        raise ConfigurationError(
            "--limit-max-requests needs a supervisor, which replaces the process: add --workers 1"
        )


def check_program(options: argparse.Namespace, name: str) -> None:
    """ConfigurationError for what only an ASGI program understands: `name` is none."""
    for option in ("limit_concurrency", "limit_max_requests", "root_path"):
        if getattr(options, option):
            raise ConfigurationError(
                f"{_spell(option)} is for ASGI programs, and {name} is none: leave it out"
            )


def _spell(name: str) -> str:
    return "--" + name.replace("_", "-")
