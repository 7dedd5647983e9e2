"""Tests of aioquic's that ours does not pass, each with its reason."""

from typing import Final

_TABLE = "there is no dynamic table, so no field section waits for one: it would have to move"
_PRIVATE = "looks into private attributes that ours has not got"
_SCOPE = "RFC 9114 §4.1.2: a malformed message is an error of its stream, not of the connection"
_SENDING = "the test sends a malformed message, which our sending side refuses"

DIFFERENCES: Final[dict[str, str]] = {
    f"test_h3.H3ConnectionTest.{name}": reason
    for reason, names in {
        _TABLE: (
            "test_blocked_stream",
            "test_blocked_stream_push_promise",
            "test_blocked_stream_push_promise_then_data",
            "test_blocked_stream_reset",
            "test_blocked_stream_reset_by_client",
            "test_blocked_stream_trailer",
        ),
        _PRIVATE: (
            "test_handle_control_frame_unknown_fragmented",
            "test_handle_request_frame_unknown_fragmented",
            "test_streams_are_closed_after_reset",
            "test_uni_stream_reset",
            "test_uni_stream_type",
        ),
        _SCOPE: (
            "test_content_length_does_not_match_data_length",
            "test_content_length_does_not_match_when_headers_end_stream",
            "test_content_length_does_not_match_when_trailers_end_stream",
            "test_handle_request_frame_interim_response_at_end",
            "test_handle_request_frame_unknown_at_end_content_length_mismatch",
        ),
        _SENDING: (
            "test_content_length_that_is_negative_is_rejected",
            "test_content_length_that_is_not_an_int_rejected",
        ),
    }.items()
    for name in names
}
