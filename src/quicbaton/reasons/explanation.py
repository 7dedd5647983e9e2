"""The explanation of a reason, and a function for each fault that makes one."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Fault(Enum):
    """Whose fault a reason is. The value is the heading in `docs/reasons.md`."""

    CALLER = "The caller's: a command, its options, a program or its files"
    PEER = "The other side's: another process, a client, a file that came from elsewhere"
    FENCED = "Fenced off: another process owns the connection, and silence is right"
    OURS = "Ours: a rule of quicbaton would have been broken"
    NOBODY = "Nobody's: it is simply so"


class Explanation(NamedTuple):
    """A sentence with the meaning, and one with the advice. The advice is empty where the error's
    message has it, or where nothing need be done."""

    fault: Fault
    meaning: str
    advice: str = ""
    #: Whether waiting cannot change it, for this connection and this destination.
    is_final: bool = False
    #: Whether the command was carried out.
    is_success: bool = False


#: Explanations by code: the content of the modules beside this one.
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
