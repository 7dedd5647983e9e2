"""The attributes of aioquic 1.7's HTTP/3 that must move; see `handshake.surface`."""

from __future__ import annotations

from typing import Final

_NAMES: Final = {
    "H3Connection": """
        _blocked_streams _decoder _decoder_bytes_received _decoder_bytes_sent _enable_webtransport
        _encoder _encoder_bytes_received _encoder_bytes_sent _is_client _is_done
        _local_control_stream_id _local_decoder_stream_id _local_encoder_stream_id _max_push_id
        _max_table_capacity _next_push_id _peer_control_stream_id _peer_decoder_stream_id
        _peer_encoder_stream_id _quic _quic_logger _received_settings _sent_settings
        _settings_received _stream
    """,
    "H3Stream": """
        blocked blocked_frame_size blocked_frame_type blocked_push_id buffer content_length
        expected_content_length frame_size frame_type headers_recv_state headers_send_state
        interim_response_received push_id receiving_ended sending_ended session_id stream_id
        stream_type
    """,
}

#: Class name to the names in `vars()` of its instances. What a new one holds must be moved by
#: `transfer`, or be derivable.
ATTRIBUTES: Final[dict[str, frozenset[str]]] = {
    name: frozenset(names.split()) for name, names in _NAMES.items()
}
