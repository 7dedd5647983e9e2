"""Answers about connections that a process gave away or took back.

They need the ledger alone: a runtime calls `answer_stale` for messages to a handoff source whose
machine it has forgotten.
"""

from __future__ import annotations

import msgspec

from quicbaton.errors import FencedError
from quicbaton.handoff.effects import Effect, Send
from quicbaton.handoff.messages import (
    MAX_TEXT_CHARS,
    Abort,
    ClaimRequest,
    Committed,
    HandoffMessage,
    Moved,
    MovedAck,
    Ready,
    Refuse,
    Taken,
)
from quicbaton.ownership import Claim, Ledger
from quicbaton.reasons import Reason


def answer_claim(ledger: Ledger, request: ClaimRequest | Ready) -> Committed | Refuse:
    """Answer a claim request from the ledger alone: with the committed claim, or the reason why
    there is none."""
    try:
        claim = ledger.reissue(
            request.connection_id, request.baton_id, request.digest, request.handoff_id
        )
    except FencedError as error:
        return refusal(request, error)
    return committed(claim, request.handoff_id, frozen_us=0)


def answer_stale(ledger: Ledger, link: int, message: HandoffMessage) -> list[Effect]:
    """Answer a message to a machine that has gone on to another attempt, or is forgotten.

    A COMMITTED in a term that this process never held comes after its destination has let go. Only
    that machine could have used the claim, so the source must learn that no process will. A process
    that no longer forwards may say so to an owner that announces itself or the next owner. Any
    other message but a READY or a ClaimRequest is the echo of something settled, and needs no
    answer.
    """
    answer: HandoffMessage | None = None
    if isinstance(message, ClaimRequest):
        answer = answer_claim(ledger, message)
    elif isinstance(message, Ready):
        answer = answer_claim(ledger, message)
        if isinstance(answer, Refuse):
            answer = Abort(*msgspec.structs.astuple(answer))
    elif isinstance(message, Committed):
        if ledger.record(message.connection_id).term < message.term:
            text = "the destination has let it go before"
            answer = abort(message.connection_id, message.handoff_id, Reason.DISCARDED, text)
    elif isinstance(message, Moved):
        answer = MovedAck(message.connection_id, message.handoff_id)
    elif isinstance(message, Taken):
        answer = not_forwarding(message)
    return [] if answer is None else [Send(link, answer)]


def not_forwarding(taken: Taken) -> Refuse:
    """The answer to an owner whose datagrams no longer come here, or are dropped."""
    text = "this process forwards nothing for the connection any more"
    return Refuse(taken.connection_id, taken.handoff_id, Reason.NOT_FORWARDING, text)


def not_by_claim(request: ClaimRequest) -> Refuse:
    """The answer to a claim request for a connection about which a shared store decides."""
    text = "the shared store gives this connection away, not its source"
    return Refuse(request.connection_id, request.handoff_id, Reason.SHARED_STORE, text)


def committed(claim: Claim, handoff_id: bytes, frozen_us: int) -> Committed:
    """The announcement of a claim. The connection stood still for `frozen_us`."""
    return Committed(
        claim.connection_id, handoff_id, claim.term, claim.baton_id, claim.digest, frozen_us
    )


def refusal(request: ClaimRequest | Ready, error: FencedError) -> Refuse:
    """The answer to a claim request that the ledger refused."""
    return Refuse(request.connection_id, request.handoff_id, error.code, str(error))


def abort(connection_id: bytes, handoff_id: bytes, code: Reason, message: str) -> Abort:
    """The end of a handoff. A message that is too long is cut."""
    return Abort(connection_id, handoff_id, code, message[:MAX_TEXT_CHARS])
