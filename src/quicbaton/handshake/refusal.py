"""A close for a connection that was never begun (RFC 9000 §10.2.3)."""

from __future__ import annotations

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from quicbaton.limits import MIN_DATAGRAM_BYTES


def refuse(*, version: int, destination_id: bytes, source_id: bytes, error_code: int) -> bytes:
    """A server's Initial packet with CONNECTION_CLOSE, in answer to a client's Initial.

    `destination_id` and `source_id` are those of the client's packet: its keys derive from the
    first (RFC 9001 §5.2). The answer takes no handshake state, and fewer bytes than the client has
    sent.
    """
    crypto = CryptoPair()
    crypto.setup_initial(cid=destination_id, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=destination_id,
        peer_cid=source_id,
        version=version,
        is_client=False,
        max_datagram_size=MIN_DATAGRAM_BYTES,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=16)
    frame.push_uint_var(error_code)
    frame.push_uint_var(QuicFrameType.PADDING)
    frame.push_uint_var(0)  # no reason phrase
    datagrams, _ = builder.flush()
    return datagrams[0]
