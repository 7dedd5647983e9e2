"""All attributes of aioquic 1.7's objects, those that this package reads among them.

`promote` must find everything that makes up a connection. An attribute that a later aioquic adds
may be state that would be lost, and a renamed one breaks us. The test
`tests/handshake/test_aioquic_private_attributes.py` compares living objects with these sets and
fails on any difference. Then review, in this order: what the new attribute holds, whether `promote`
must carry it, whether `prepare` must set it. Only then change the set.
"""

from __future__ import annotations

from typing import Final

#: The version from which the sets were taken.
AIOQUIC_VERSION: Final = "1.7"

_NAMES: Final = {
    "Context": """
        _Context__logger _alpn_protocols _cadata _cafile _capath _certificate_request _cipher_suites
        _dec_key _ec_private_keys _enc_key _expected_verify_data _is_client _key_schedule_proxy
        _key_schedule_psk _legacy_compression_methods _max_early_data _new_session_ticket
        _next_dec_key _peer_certificate _peer_certificate_chain _psk_key_exchange_mode
        _psk_key_exchange_modes _receive_buffer _request_client_certificate _server_name
        _session_resumed _signature_algorithms _supported_groups _supported_versions _verify_mode
        _x25519_private_key _x448_private_key alpn_cb alpn_negotiated certificate certificate_chain
        certificate_private_key client_random early_data_accepted get_session_ticket_cb
        handshake_extensions key_schedule legacy_session_id new_session_ticket_cb
        received_extensions server_random session_ticket state update_traffic_key_cb
    """,
    "CryptoContext": """
        _setup_cb _teardown_cb aead cipher_suite hp key_phase secret version
    """,
    "CryptoPair": """
        _update_key_requested aead_tag_size recv send
    """,
    "Limit": """
        frame_type name sent used value
    """,
    "QuicConnection": """
        _QuicConnection__frame_handlers _ack_delay _ack_eliciting_sent_since_receipt _close_at
        _close_event _close_pending _configuration _connect_called _crypto_buffers
        _crypto_frame_type _crypto_packet_version _crypto_retransmitted _crypto_streams _cryptos
        _cryptos_initial _datagrams_pending _events _handshake_complete _handshake_confirmed
        _handshake_done_pending _host_cid_seq _host_cids _is_client _key_update_pending
        _local_ack_delay_exponent _local_active_connection_id_limit
        _local_initial_source_connection_id _local_max_data _local_max_stream_data_bidi_local
        _local_max_stream_data_bidi_remote _local_max_stream_data_uni _local_max_streams_bidi
        _local_max_streams_uni _local_next_stream_id_bidi _local_next_stream_id_uni _logger _loss
        _loss_at _max_datagram_size _network_paths _original_destination_connection_id _pacing_at
        _packet_number _peer_cid _peer_cid_available _peer_cid_sequence_numbers
        _peer_retire_prior_to _peer_token _ping_pending _probe_pending _quic_logger
        _remote_ack_delay_exponent _remote_active_connection_id_limit
        _remote_initial_source_connection_id _remote_max_data _remote_max_data_used
        _remote_max_datagram_frame_size _remote_max_idle_timeout _remote_max_stream_data_bidi_local
        _remote_max_stream_data_bidi_remote _remote_max_stream_data_uni _remote_max_streams_bidi
        _remote_max_streams_uni _remote_preferred_address _remote_version_information
        _retire_connection_ids _retry_count _retry_source_connection_id _session_ticket_fetcher
        _session_ticket_handler _spaces _spin_bit _spin_highest_pn _state _streams
        _streams_blocked_bidi _streams_blocked_pending _streams_blocked_uni _streams_queue
        _token_handler _version _version_negotiated_compatible _version_negotiated_incompatible
        host_cid tls
    """,
    "QuicConnectionId": """
        cid sequence_number stateless_reset_token was_sent
    """,
    "QuicNetworkPath": """
        addr bytes_received bytes_sent is_validated local_challenge_sent local_challenges peer_cid
        remote_challenges validation_deadline
    """,
    "QuicPacketNumberWindow": """
        _lower _received _size
    """,
    "QuicPacketRecovery": """
        _cc _logger _pacer _pto_count _quic_logger _rtt_first_sample_time _rtt_initial
        _rtt_initialized _rtt_latest _rtt_min _rtt_smoothed _rtt_variance _send_probe
        _time_of_last_sent_ack_eliciting_packet handshake_confirmed max_ack_delay
        peer_completed_address_validation spaces
    """,
    "QuicPacketSpace": """
        ack_at ack_eliciting_in_flight ack_queue discarded expected_packet_number
        is_application_data largest_acked_packet largest_received_packet largest_received_time
        loss_time received_packets sent_packets
    """,
    "QuicSentPacket": """
        delivery_handlers epoch in_flight is_ack_eliciting is_crypto_packet packet_number
        packet_type quic_logger_frames sent_bytes sent_time
    """,
    "QuicStream": """
        is_blocked max_stream_data_local max_stream_data_local_sent max_stream_data_remote receiver
        sender stream_id
    """,
    "QuicStreamReceiver": """
        _buffer _buffer_start _final_size _ranges _stop_error_code _stream_id highest_offset
        is_finished stop_pending
    """,
    "QuicStreamSender": """
        _acked _acked_fin _buffer _buffer_fin _buffer_start _buffer_stop _pending _pending_eof
        _reset_error_code _stream_id buffer_is_empty highest_offset is_finished reset_pending
    """,
    "QuicTransportParameters": """
        ack_delay_exponent active_connection_id_limit disable_active_migration initial_max_data
        initial_max_stream_data_bidi_local initial_max_stream_data_bidi_remote
        initial_max_stream_data_uni initial_max_streams_bidi initial_max_streams_uni
        initial_source_connection_id max_ack_delay max_datagram_frame_size max_idle_timeout
        max_udp_payload_size original_destination_connection_id preferred_address quantum_readiness
        retry_source_connection_id stateless_reset_token version_information
    """,
    "RangeSet": """
        _RangeSet__ranges
    """,
}

#: Class name to the names in `vars()` of its instances, in any phase of a connection.
ATTRIBUTES: Final[dict[str, frozenset[str]]] = {
    name: frozenset(names.split()) for name, names in _NAMES.items()
}

#: Methods that this package replaces, and private ones that it calls.
METHODS: Final[dict[str, frozenset[str]]] = {
    "Context": frozenset(
        {
            "_build_session_ticket",
            "_server_handle_certificate",
            "_server_handle_finished",
            "_server_handle_hello",
            "handle_message",
        }
    ),
    "QuicConnection": frozenset(
        {
            "_initialize",
            "_replenish_connection_ids",
            "_serialize_transport_parameters",
            "_write_ack_frame",
        }
    ),
}
