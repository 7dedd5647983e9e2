"""Named points at which a test stops or kills this process.

`QUICBATON_FAILPOINT=NAME:SIGNAL` in the environment raises the signal (KILL or STOP) in this
process when it first reaches the point NAME. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Final

_NAME, _, _SIGNAL = os.environ.get("QUICBATON_FAILPOINT", "").partition(":")
_pending: list[str] = [_NAME] if _NAME else []

#: The points of a handoff and a takeover, in the order in which they are passed.
POINTS: Final = (
    "before_offer",
    "after_offer",
    "before_accept",
    "after_accept",
    "before_freeze",
    "after_freeze",
    "before_baton",
    "after_baton",
    "rebuilt",
    "before_ready",
    "after_ready",
    "before_destroy",
    "after_destroy",
    "before_committed",
    "after_committed",
    "before_resume",
    "after_resume",
    "before_cutover",
    "after_cutover",
    "before_cutoverack",
    "after_cutoverack",
    "before_thaw",
    "after_thaw",
    "discarded",
    "takeover_asked",
    "takeover_stopped_reading",
    "takeover_socket_passed",
    "takeover_reading",
    "takeover_done",
)


def reach(point: str) -> None:
    """Die or stop here, if this process was told to."""
    if _pending and point == _pending[0]:
        _pending.clear()
        os.kill(os.getpid(), getattr(signal, f"SIG{_SIGNAL or 'KILL'}"))
