"""`quicbaton serve --env-file`: environment variables for the program, from a file."""

from __future__ import annotations

from pathlib import Path

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason


def read(path: Path | None) -> None:
    """Set the variables in the file. A reload reads it anew.

    Raises ConfigurationError: there is no such file, or python-dotenv is not installed.
    """
    if path is None:
        return
    try:
        from dotenv import load_dotenv  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "--env-file needs python-dotenv: pip install 'quicbaton[standard]'",
            code=Reason.NO_DOTENV,
        ) from error
    if not path.is_file():
        raise ConfigurationError(f"--env-file {path}: there is no such file")
    load_dotenv(path)
