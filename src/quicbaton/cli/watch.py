"""`quicbaton serve --reload`: new workers whenever a file of the program changes, for development.

It is a `quicbaton reload`: connections and running requests go on, and code that does not come up
replaces nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason


def watched_folders(options: ServeOptions) -> list[Path]:
    """The folders to watch.

    Raises ConfigurationError for a folder that does not exist, and where watchfiles is not
    installed.
    """
    try:
        import watchfiles  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "--reload needs watchfiles: pip install 'quicbaton[standard]'",
            code=Reason.NO_WATCHFILES,
        ) from error
    folders = list(options.watch.reload_dir) or [options.program.app_dir or Path()]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"cannot watch {folder}: there is no such folder")
    return folders


async def watch(
    folders: Sequence[Path], reporter: Reporter, reload: Callable[[], Awaitable[None]]
) -> None:
    """Call `reload` after each change, one at a time, until cancelled."""
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - an extra

    async for changes in awatch(*folders, watch_filter=PythonFilter()):
        names = sorted({Path(path).name for _, path in changes})
        reporter.event("changed", f"changed: {', '.join(names)}", files=names)
        await reload()
