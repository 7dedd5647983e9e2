"""Checks of others' that ours does not pass, each with its reason. Whatever else fails is a fault,
and so is one of these that passes."""

from __future__ import annotations

from typing import Final

_OPTION = "an option of peregrine's; here it is for the program's middleware to do"
_COMPRESSION = "peregrine compresses what programs answer; here it is for their middleware to do"
_INFORMATIONAL = (
    "`http.response.informational` is peregrine's own; of the ASGI extensions there is "
    "`http.response.early_hint`"
)
_ALT_SVC = "`ma` is an hour here, not a day"

HTTP3: Final = {
    "the server names itself": "no `server: peregrine`, nor any other",
    "--hsts reaches an HTTP/3 response": _OPTION,
    "--request-id reaches an HTTP/3 response": _OPTION,
    "and the application's scope has the same ID": _OPTION,
    "the probe is answered": _OPTION,
    "it carries no body": _OPTION,
    "a second probe is answered": _OPTION,
    "a response is compressed over HTTP/3": _COMPRESSION,
    "compression raised": "and so what it does next with the compressed response",
    "two interim responses before the body": _INFORMATIONAL,
    "informational raised": "and so what it does next on the stream, which is answered already",
    "multiplexing raised": "RFC 9218 §10: of two responses that are not incremental the one asked "
    "for first is sent first; it has come whole when the script begins to wait for it",
    "a reset stream cancels the task nobody is left to talk to": "ASGI tells a program by "
    "`http.disconnect`, and that `send()` raises; cancelling its task is peregrine's addition",
    "and told why": "requests that were given up hold their streams until their programs have "
    "ended; after 128 aioquic resets streams for which it has no credit (RFC 9000 §4.6: "
    "STREAM_LIMIT_ERROR), and so never gives up enough for H3_EXCESSIVE_LOAD",
    "an unread body stops the peer near the high-water mark": "it stops at the stream's window, "
    "which is 1 MiB here; the script wants less than that",
    "a length is declared (inline)": "a2wsgi, which runs the WSGI program here, declares none",
    "a length is declared (pooled)": "a2wsgi, which runs the WSGI program here, declares none",
    "HTTP/1.1 advertises h3": _ALT_SVC,
    "HTTP/2 advertises it too": _ALT_SVC,
    "a separate QUIC port is the one advertised": "UDP and TCP have one port number here",
}

_RETRY = "RFC 9000 §7.3: the test breaks the handshake by private attributes that are not used here"

AIOQUIC_ASYNCIO: Final = {
    "test_connect_and_serve_with_retry_bad_original_destination_connection_id": _RETRY,
    "test_connect_and_serve_with_retry_bad_retry_source_connection_id": _RETRY,
    "test_connect_and_serve_with_retry_bad_token": "replaces aioquic's check of the token; ours "
    "are checked elsewhere",
    "test_server_does_not_reply_to_version_negotiation_packet": "calls the server's private parts",
    "test_server_receives_garbage": "calls the server's private parts",
    "test_wait_connected_twice": "several tasks may wait for a connection here",
}
