"""Reasons: their codes on wires and in errors."""

from __future__ import annotations

import copy
import pickle

import msgspec
import pytest

from quicbaton.errors import PeerError, RefusedError
from quicbaton.reasons import Reason, heard
from quicbaton.service.peers.commands import CODEC, Answer


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_its_code(reason: Reason) -> None:
    code = reason.name.lower()
    assert reason == code
    assert {code: 1}[reason] == 1
    assert f"{reason}" == str(reason) == code
    for codec in (msgspec.msgpack, msgspec.json):
        assert codec.decode(codec.encode({reason: reason})) == {code: code}
    assert Reason.parse(code) is copy.deepcopy(reason) is pickle.loads(pickle.dumps(reason))


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_says_what_it_means_in_a_sentence(reason: Reason) -> None:
    assert reason.meaning[0] in "`" or reason.meaning[0].isupper()
    assert reason.meaning.endswith(".")
    assert not reason.advice or reason.advice[-1] in ".`"
    assert not (reason.is_success and reason.is_final)


def test_a_reason_that_is_unknown_here_is_kept_in_the_message() -> None:
    assert Reason.parse("of_a_later_release") is Reason.UNKNOWN
    assert heard("of_a_later_release", "no") == (Reason.UNKNOWN, "no (of_a_later_release)")
    assert heard("of_a_later_release", "") == (Reason.UNKNOWN, "of_a_later_release")
    assert heard("no_room", "too big") == (Reason.NO_ROOM, "too big")
    # What another process has passed on has its code in its message already.
    assert heard("unknown", "no (it)") == (Reason.UNKNOWN, "no (it)")


def test_an_answer_of_a_later_release_is_understood_as_far_as_it_goes() -> None:
    (frame,) = CODEC.reader().feed(CODEC.encode(Answer(False, "of_a_later_release", "no")))
    assert isinstance(frame, Answer)
    assert frame.heard() == (Reason.UNKNOWN, "no (of_a_later_release)")


def test_an_error_carries_a_reason_even_where_its_text_was_given() -> None:
    assert PeerError("it is away").code is Reason.PEER
    assert RefusedError("not now", code=Reason("not_exportable")).code is Reason.NOT_EXPORTABLE
    assert RefusedError("not now", code="not_exportable").code is Reason.NOT_EXPORTABLE  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no_reason_of_ours"):
        RefusedError("not now", code="no_reason_of_ours")  # type: ignore[arg-type]
