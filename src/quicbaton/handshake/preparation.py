"""Values that must be ours before aioquic's first datagram, and the time to take over."""

from __future__ import annotations

from aioquic._buffer import Buffer
from aioquic.quic.connection import END_STATES, QuicConnection
from aioquic.tls import AlertIllegalParameter, CipherSuite, Epoch

from quicbaton.errors import ConfigurationError
from quicbaton.handshake import initial_keys
from quicbaton.handshake.certificates import Certificates
from quicbaton.handshake.hello import glimpse
from quicbaton.handshake.tickets import SessionTickets
from quicbaton.limits import MAX_HANDSHAKE_MESSAGE_BYTES, MAX_PEER_IDS
from quicbaton.transport.streams.flow import stream_window

#: RFC 9000 §10.3: bytes of a stateless reset token.
_RESET_TOKEN_BYTES = 16
#: The least (RFC 9000 §7.2) and the most (§17.2) bytes of a client's first destination ID.
_FIRST_DESTINATION_BYTES = (8, 20)
#: A server's first choices, unless the program names others. Secrets and header-protection keys of
#: SHA-256 and AES-128 take 64 bytes less of every baton and sleeper than those of SHA-384 and
#: AES-256, and RFC 8446 §9.1 has every client offer them.
_CIPHER_SUITES = (
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
)


def prepare(
    quic: QuicConnection,
    cid: bytes,
    reset_token: bytes,
    *,
    first_destination: bytes | None = None,
    tickets: SessionTickets | None = None,
    certificates: Certificates | None = None,
) -> None:
    """Replace the values that a fresh `quic` took from the operating system's randomness.

    `cid` becomes its connection ID and Source Connection ID, and must have the length that its
    configuration names, since aioquic parses short headers by that. `reset_token` is a server's
    stateless reset token; a client has none and passes `b""` (RFC 9000 §18.2). `first_destination`
    replaces the destination ID that a client makes up. A client whose own ID is empty needs it,
    because aioquic then makes up an empty one too, which §7.2 forbids.

    aioquic issues no more connection IDs of its own: our transport issues them after promotion.
    (With an empty ID of its own aioquic would even issue empty ones, which §19.15 forbids.) A
    server prefers AES-128 unless the configuration names cipher suites, keeps the client's server
    name, which aioquic forgets, and lets the client resume sessions by `tickets`; then `quic` must
    have no ticket handlers of its own. It shows one of `certificates`, as they are when the
    ClientHello comes; without them, that of its configuration. Where they ask for the client's
    certificate, no session is resumed, by no handlers.

    Raises ConfigurationError when it is called too late or a length is wrong.

    The transport parameters that aioquic 1.7 serialises, and what sets them:

    * from the configuration: max_idle_timeout, initial_max_data, the three
      initial_max_stream_data (one value), max_datagram_frame_size, version_information;
      initial_max_stream_data is two thirds of initial_max_data at most, lest one stream that the
      program does not read hold the credit of all others;
    * from private attributes that may be set here before the first datagram:
      ack_delay_exponent (3), initial_max_streams_bidi and _uni (128 each, `_local_max_streams_*`);
    * by this function: initial_source_connection_id, stateless_reset_token,
      active_connection_id_limit (`limits.MAX_PEER_IDS`);
    * fixed: max_ack_delay (25 ms); original_destination_connection_id and
      retry_source_connection_id as constructed;
    * never sent: max_udp_payload_size (so 65,527), disable_active_migration, preferred_address.

    `promote` reads both sides' parameters from the TLS extensions as they went over the wire.
    """
    if quic._network_paths or quic._connect_called or quic._cryptos:
        raise ConfigurationError("prepare() must come before the connection's first datagram")
    expected = quic.configuration.connection_id_length
    if len(cid) != expected:
        raise ConfigurationError(
            f"the connection ID has {len(cid)} bytes, the configuration says {expected}"
        )
    is_client = quic.configuration.is_client
    if len(reset_token) != (0 if is_client else _RESET_TOKEN_BYTES):
        raise ConfigurationError("a server needs a reset token of 16 bytes, a client has none")
    own_tickets = quic._session_ticket_fetcher or quic._session_ticket_handler
    if tickets is not None and (is_client or own_tickets):
        raise ConfigurationError("`tickets` are for a server that has no ticket handlers")
    if first_destination is not None:
        _set_first_destination(quic, first_destination)

    own = quic._host_cids[0]
    own.cid = cid
    if not is_client:
        own.stateless_reset_token = reset_token
        _watch_hello(quic, tickets, certificates)
    quic.host_cid = cid
    quic._local_initial_source_connection_id = cid
    quic._local_active_connection_id_limit = MAX_PEER_IDS
    most = min(quic.configuration.max_stream_data, stream_window(quic.configuration.max_data))
    quic._local_max_stream_data_bidi_local = most
    quic._local_max_stream_data_bidi_remote = most
    quic._local_max_stream_data_uni = most
    # An attribute of the object shadows the method of its class: aioquic calls this instead.
    quic._replenish_connection_ids = _issue_none  # type: ignore[method-assign]


def ready(quic: QuicConnection) -> bool:
    """True from the `receive_datagram` on that confirmed the handshake (RFC 9001 §4.1.2).

    A server's handshake is confirmed when it completes, a client's when HANDSHAKE_DONE comes. False
    for good when the connection failed or closed before: then aioquic goes on, and gives the reason
    in its last event.
    """
    return quic._handshake_confirmed and quic._close_event is None and quic._state not in END_STATES


def _issue_none() -> None:
    pass


def _set_first_destination(quic: QuicConnection, first_destination: bytes) -> None:
    shortest, longest = _FIRST_DESTINATION_BYTES
    if not quic.configuration.is_client:
        raise ConfigurationError("only a client makes up a first destination ID")
    if not shortest <= len(first_destination) <= longest:
        raise ConfigurationError("a first destination ID has 8 to 20 bytes (RFC 9000 §7.2)")
    quic._peer_cid.cid = first_destination
    quic._original_destination_connection_id = first_destination


def _watch_hello(
    quic: QuicConnection, tickets: SessionTickets | None, certificates: Certificates | None
) -> None:
    """Make aioquic's TLS keep the server name of the ClientHello, as if it were configured, show
    one of `certificates`, let `tickets` take part, and gather no message without a limit.

    aioquic parses the name and drops it. The TLS context is made at the first datagram, so the
    replacement waits for that. It then reads the message before TLS does.
    """
    initialize = quic._initialize

    def initialize_and_watch(peer_cid: bytes) -> None:
        initial_keys.initialize(quic, initialize, peer_cid)
        tls = quic.tls
        if quic.configuration.cipher_suites is None:
            tls._cipher_suites = list(_CIPHER_SUITES)
        handle_hello = tls._server_handle_hello
        handle_message = tls.handle_message
        exchange = None
        if certificates is not None and certificates.clients is not None:
            certificates.clients.ask(tls)
        elif tickets is not None:
            exchange = tickets.attach(tls)

        def watch(input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
            seen = glimpse(input_buf.data_slice(0, input_buf.capacity))
            tls._server_name = seen.server_name
            if certificates is not None:
                certificates.present(tls, seen.server_name)
            if exchange is not None:
                exchange.on_hello(seen.ticket_age)
            handle_hello(input_buf, initial_buf, handshake_buf)

        def handle_bounded(input_data: bytes, output_buf: dict[Epoch, Buffer]) -> None:
            # aioquic would gather a message of 16 MB, and copy it for each frame.
            if len(tls._receive_buffer) + len(input_data) > MAX_HANDSHAKE_MESSAGE_BYTES:
                raise AlertIllegalParameter("Handshake message is too long")
            handle_message(input_data, output_buf)

        tls._server_handle_hello = watch  # type: ignore[method-assign]
        tls.handle_message = handle_bounded  # type: ignore[method-assign]

    quic._initialize = initialize_and_watch  # type: ignore[method-assign]
