"""Named points at which a test stops or kills a process, or cuts its links.

`QUICBATON_FAILPOINT=NAME:ACTION[:FILE]` in the environment acts once, when this process first
reaches the point NAME. ACTION is KILL or STOP, which raise that signal, or CUT, which closes the
handoff links. With FILE the signal goes to the process whose pid is in that file: the other side of
a handoff. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import contextlib
import os
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

#: The points of a handoff, in the order in which they are passed, and of a handoff broken off.
SOURCE_POINTS: Final = (
    "before_offer",
    "after_offer",
    "before_freeze",
    "after_freeze",
    "before_baton",
    "after_baton",
    "before_destroy",
    "after_destroy",
    "before_committed",
    "after_committed",
    "before_cutover_ack",
    "after_cutover_ack",
)
DESTINATION_POINTS: Final = (
    "before_accept",
    "after_accept",
    "rebuilt",
    "before_ready",
    "after_ready",
    "before_resume",
    "after_resume",
    "before_cutover",
    "after_cutover",
)
#: With a shared store: points between a side's steps, beside those above.
SHARED_SOURCE_POINTS: Final = (
    "before_publish",
    "after_publish",
    "before_take_back",
    "after_take_back",
)
SHARED_DESTINATION_POINTS: Final = (
    "before_take",
    "after_take",
    "before_taken",
    "after_taken",
    "before_close_entry",
    "after_close_entry",
)
THAW_POINTS: Final = ("before_thaw", "after_thaw")
#: The points of a takeover, in the old process and in the new one.
DEPARTURE_POINTS: Final = (
    "takeover_asked",
    "takeover_socket_passed",
    "takeover_linked",
    "takeover_stopped_reading",
    "takeover_handed_over",
    "takeover_done",
)
ARRIVAL_POINTS: Final = (
    "takeover_listening",
    "takeover_reading",
    "takeover_settled",
)
POINTS: Final = (
    *SOURCE_POINTS,
    *DESTINATION_POINTS,
    *SHARED_SOURCE_POINTS,
    *SHARED_DESTINATION_POINTS,
    *THAW_POINTS,
    *DEPARTURE_POINTS,
    *ARRIVAL_POINTS,
)
ACTIONS: Final = ("KILL", "STOP", "CUT")


class _Failpoint(NamedTuple):
    action: str
    victim: Path | None


#: By the point. Where points are many, look whether there is any before you `reach` one.
armed: Final[dict[str, _Failpoint]] = {}
_cutters: list[weakref.WeakMethod[Callable[[], None]]] = []


def arm(text: str) -> None:
    """Take `NAME:ACTION[:FILE]` from the environment; an empty text arms nothing."""
    if not text:
        return
    name, _, rest = text.partition(":")
    action, _, file = rest.partition(":")
    if name not in POINTS or action not in ACTIONS:
        raise ConfigurationError(
            f"QUICBATON_FAILPOINT={text}: expected NAME:ACTION with a NAME of "
            f"quicbaton.service.failpoints.POINTS and an ACTION of {', '.join(ACTIONS)}",
            code=Reason.FAILPOINT,
        )
    armed[name] = _Failpoint(action, Path(file) if file else None)


def on_cut(cut: Callable[[], None]) -> None:
    """Have `cut`, a method, called at a failpoint with CUT, as long as its object lives."""
    _cutters.append(weakref.WeakMethod(cut))


def reach(point: str) -> None:
    """Perform the failpoint's action, if this process was told to fail here."""
    if not armed or point not in armed:
        return
    action, victim = armed.pop(point)
    if action == "CUT":
        for reference in _cutters:
            cut = reference()
            if cut is not None:
                cut()
        return
    pid = os.getpid() if victim is None else int(victim.read_text(encoding="ascii"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL if action == "KILL" else signal.SIGSTOP)


arm(os.environ.get("QUICBATON_FAILPOINT", ""))
