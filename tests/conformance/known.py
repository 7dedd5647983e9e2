"""Other projects' checks that ours does not pass, each with its reason. Any other failure is a
fault, and so is one of these that passes."""

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

_WHITESPACE = (
    "RFC 9110 §5.5: no whitespace before or behind a field's value; such a request is malformed"
)
_TRAILERS = "Starlette's test client offers to take trailers and shows them; libcurl does neither"
_DEBUG = "`http.response.debug` is for test clients within the process"

STARLETTE: Final = {
    "middleware.test_body_limit.test_received_bytes_are_counted_with_unreliable_content_length"
    "[asyncio]": "RFC 9114 §4.1.2: a request with another length than it says is malformed",
    "middleware.test_gzip.test_gzip_trailers[asyncio-True-gzip]": _TRAILERS,
    "middleware.test_gzip.test_gzip_trailers[asyncio-True-identity]": _TRAILERS,
    "middleware.test_gzip.test_gzip_trailers[asyncio-False-gzip]": _TRAILERS,
    "middleware.test_gzip.test_gzip_trailers[asyncio-False-identity]": _TRAILERS,
    "middleware.test_gzip.test_gzip_excluded_content_type_trailers[asyncio]": _TRAILERS,
    "middleware.test_opentelemetry.test_http_span_uses_route_and_semantic_attributes[asyncio]": (
        "it looks for the port and the version of HTTP/1.1"
    ),
    "test_exceptions.test_force_500_response[asyncio]": (
        "a program that has said nothing is answered for, with a short text"
    ),
    "test_requests.test_request_headers[asyncio]": "libcurl sends fields in an order of its own",
    "test_requests.test_cookies_invalid[asyncio-  =  b  ;  ;  =  ;   c  =  ;  -expected4]": (
        _WHITESPACE
    ),
    "test_requests.test_request_send_push_promise[asyncio]": "`http.response.push` is not offered",
    "test_responses.test_response_phrase[asyncio]": "RFC 9114 §4.1: a status below 200 is no whole "
    "response",
    r"test_staticfiles.test_staticfiles_304_with_if_none_match_wildcard[asyncio- \t* \t-GET]": (
        _WHITESPACE
    ),
    r"test_staticfiles.test_staticfiles_304_with_if_none_match_wildcard[asyncio- \t* \t-HEAD]": (
        _WHITESPACE
    ),
    "test_templates.test_templates[asyncio]": _DEBUG,
    "test_templates.test_calls_context_processors[asyncio]": _DEBUG,
    "test_templates.test_template_with_middleware[asyncio]": _DEBUG,
    "test_templates.test_templates_with_directories[asyncio]": _DEBUG,
    "test_templates.test_templates_with_environment[asyncio]": _DEBUG,
}

FASTAPI: Final = {
    "test_dependency_after_yield_streaming.test_broken_session_stream_no_raise": (
        "the head waits for the first of the body: a program that raises before that gets a 500"
    ),
    "test_dependency_concurrency.test_app_can_be_reused_across_event_loops": (
        "the server is asyncio's, and has one loop"
    ),
    "test_fastapi_cli.test_fastapi_cli": "starts FastAPI's own command, which is not installed",
    "test_security_http_base.test_security_http_base_with_whitespaces": _WHITESPACE,
    "test_security_oauth2_authorization_code_bearer.test_token_with_whitespaces": _WHITESPACE,
}
