"""The beginning of the `quicbaton` command. It imports nothing that takes time, so that Ctrl-C is
quiet from here on.

An exception in the middle of an import is a traceback at best, and in a module written in C not
even that. A command that runs gets `KeyboardInterrupt`, to leave no half of a file behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from quicbaton.cli.exit_status import INTERRUPTED


def run() -> int:
    """Run the command in `sys.argv`; its exit status."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_ours:
        # Run in the background by a shell, which ignores it, or by a program.
        return _main(lambda: None)
    signal.signal(signal.SIGINT, _end)
    try:
        return _main(lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    finally:
        signal.signal(signal.SIGINT, _end)


def _main(begin: Callable[[], object]) -> int:
    from quicbaton.cli.main import main  # noqa: PLC0415 - see the module's head

    return main(begin=begin)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
