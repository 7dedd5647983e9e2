"""Checks of the limits on an ASGI program's requests."""

from __future__ import annotations

from quicbaton.cli.options.serve import ProgramOptions, RequestLimits, ServeOptions
from quicbaton.errors import ConfigurationError


def check(options: ServeOptions) -> None:
    """ConfigurationError for limits that are no valid numbers, or that no process would enforce."""
    limits = options.limits
    for name, value, least in (
        ("--limit-concurrency", limits.limit_concurrency, 1),
        ("--limit-max-requests", limits.limit_max_requests, 1),
        ("--limit-max-requests-jitter", limits.limit_max_requests_jitter, 0),
    ):
        if value is not None and value < least:
            raise ConfigurationError(f"{name} is {least} at least, got {value}")
    if limits.limit_max_requests is None:
        if limits.limit_max_requests_jitter:
            raise ConfigurationError(
                "--limit-max-requests-jitter is added to --limit-max-requests: give that, too"
            )
    elif options.workers is None:
        raise ConfigurationError(
            "--limit-max-requests needs a supervisor, which replaces the process: add --workers 1"
        )


def check_program(options: ProgramOptions, limits: RequestLimits, name: str) -> None:
    """ConfigurationError for options that only an ASGI program understands, where `name` is
    none."""
    for option, value in (
        ("--limit-concurrency", limits.limit_concurrency),
        ("--limit-max-requests", limits.limit_max_requests),
        ("--root-path", options.root_path),
    ):
        if value:
            raise ConfigurationError(
                f"{option} is for ASGI programs, and {name} is none: leave it out"
            )
