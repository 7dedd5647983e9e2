"""Reasons between a client and us, for the calls of programs, and of the test kit."""

from __future__ import annotations

from typing import Final

from quicbaton.reasons.explanation import Explanations, caller, nobody, ours, peer

_ROOTS: Final[Explanations] = {
    "caller": caller("The calling program made a mistake; the message says which."),
    "error": ours("A failure for which there is no other reason."),
    "internal": ours(
        "A rule of our own was about to be broken; the action was not carried out.",
        "Report it, with the log.",
    ),
    "peer": peer("A peer, a file or a message broke its format or its rules."),
}

_QUIC: Final[Explanations] = {
    "datagram_too_large": caller(
        "A DATAGRAM is too large for the peer or the path.", "Read `max_datagram_bytes` before."
    ),
    "id_collision": ours("A connection ID leads to another connection already."),
    "key_update_too_soon": nobody(
        "The peer has not acknowledged the present keys.", "Wait until it has."
    ),
    "reset_too_small": nobody("The datagram is too short to be answered with a stateless reset."),
    "stream_state": caller("The stream does not exist, or its state does not allow the call."),
    "transport": peer("The peer broke a rule of QUIC, and the connection closes."),
}

_TOKENS: Final[Explanations] = {
    "address_token": peer("A client's address token is not valid."),
    "token_address": peer("A token was given to another address."),
    "token_destination": peer("The Initial does not go to the Retry's source connection ID."),
    "token_expired": peer("A token is too old."),
    "token_malformed": peer("The token is none that we give out."),
    "token_seal": peer("A token was changed, or sealed under a key that is missing here."),
}

_HTTP: Final[Explanations] = {
    "goaway": nobody(
        "The server takes no more requests on this connection.", "Open another connection."
    ),
    "http3": peer("The peer broke a rule of HTTP/3."),
    "http_status": peer("The server answered with a status other than 200."),
    "reset": peer("The server broke off its answer."),
    "truncated": peer("The answer's body is shorter or longer than announced."),
}

_TEST_KIT: Final[Explanations] = {
    "nonce_reuse": ours("Two packets were protected with one key and number."),
    "spinning": ours("A connection's timer fires again and again without time passing."),
    "stuck": caller("A test waits for something that cannot happen any more."),
}

OF_PROTOCOLS: Final[Explanations] = {**_ROOTS, **_QUIC, **_TOKENS, **_HTTP, **_TEST_KIT}
