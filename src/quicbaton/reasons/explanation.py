"""What there is to say of a reason, and a maker for each fault."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Fault(Enum):
    """Whose fault a reason is; the value is what `docs/reasons.md` calls it."""

    CALLER = "The caller's: a command, its options, a program or its files"
    PEER = "The other side's: another process, a client, a file that came from elsewhere"
    FENCED = "Fenced off: somebody else owns it, and silence is right"
    OURS = "Ours: a rule of quicbaton would have been broken"
    NOBODY = "Nobody's: it is simply so"


class Explanation(NamedTuple):
    """A sentence on what it means, and one on what to do, empty where the error's message says it
    or nothing need be done."""

    fault: Fault
    meaning: str
    advice: str = ""
    #: No waiting changes it, for this connection and this destination.
    is_final: bool = False
    #: What was asked for was done.
    is_success: bool = False


#: What the modules beside this one are made of: explanations by code.
Explanations = dict[str, Explanation]


def caller(meaning: str, advice: str = "", *, final: bool = False) -> Explanation:
    return Explanation(Fault.CALLER, meaning, advice, final)


def peer(meaning: str, advice: str = "", *, final: bool = False) -> Explanation:
    return Explanation(Fault.PEER, meaning, advice, final)


def fenced(meaning: str, advice: str = "") -> Explanation:
    return Explanation(Fault.FENCED, meaning, advice)


def ours(meaning: str, advice: str = "") -> Explanation:
    return Explanation(Fault.OURS, meaning, advice)


def nobody(meaning: str, advice: str = "", *, final: bool = False) -> Explanation:
    return Explanation(Fault.NOBODY, meaning, advice, final)


def done(meaning: str) -> Explanation:
    return Explanation(Fault.NOBODY, meaning, is_success=True)
