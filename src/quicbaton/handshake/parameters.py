"""The transport parameters of both sides, as they went over the wire (RFC 9000 §18.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicTransportParameters, pull_quic_transport_parameters
from aioquic.tls import Extension, ExtensionType

from quicbaton.errors import RefusedError
from quicbaton.reasons import Reason
from quicbaton.transport.state import Parameters

_GREASE_QUIC_BIT: Final = 0x2AB2
#: Kinds of clients whose parameters are shared.
_MAX_SHARED: Final = 256


def sent_parameters(quic: QuicConnection) -> QuicTransportParameters:
    return _pull_parameters(quic.tls.handshake_extensions)


def received_parameters(quic: QuicConnection) -> QuicTransportParameters:
    # Read from the wire: aioquic 1.7 does not keep the peer's ack_delay_exponent (it assigns the
    # default to itself), max_udp_payload_size and disable_active_migration.
    return _pull_parameters(quic.tls.received_extensions or [])


def _pull_parameters(extensions: list[Extension]) -> QuicTransportParameters:
    for kind, data in extensions:
        if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
            return pull_quic_transport_parameters(Buffer(data=data))
    raise RefusedError("the handshake carried no transport parameters", code=Reason.NOT_READY)


def import_parameters(
    wire: QuicTransportParameters, *, grease_quic_bit: bool = False
) -> Parameters:
    """The parameters, with RFC 9000 §18.2's defaults for those that were left out."""
    return _shared(
        Parameters(
            max_idle_timeout_ms=wire.max_idle_timeout or 0,
            max_udp_payload_bytes=_or_default(wire.max_udp_payload_size, 65_527),
            ack_delay_exponent=_or_default(wire.ack_delay_exponent, 3),
            max_ack_delay_ms=_or_default(wire.max_ack_delay, 25),
            stream_data_bidi_local=wire.initial_max_stream_data_bidi_local or 0,
            stream_data_bidi_remote=wire.initial_max_stream_data_bidi_remote or 0,
            stream_data_uni=wire.initial_max_stream_data_uni or 0,
            active_connection_id_limit=_or_default(wire.active_connection_id_limit, 2),
            disable_active_migration=bool(wire.disable_active_migration),
            max_datagram_frame_bytes=wire.max_datagram_frame_size or 0,
            grease_quic_bit=grease_quic_bit,
        )
    )


def allows_grease(extensions: list[Extension] | None) -> bool:
    """Whether the parameters have the empty grease_quic_bit (RFC 9287 §3), which aioquic skips.

    We do not announce it ourselves. A client that sees it may clear the bit in its Handshake
    packets from then on, and aioquic, which reads these, discards packets without it.
    """
    for kind, data in extensions or []:
        if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
            buf = Buffer(data=data)
            while not buf.eof():
                parameter = buf.pull_uint_var()
                buf.pull_bytes(buf.pull_uint_var())
                if parameter == _GREASE_QUIC_BIT:
                    return True
    return False


@lru_cache(maxsize=_MAX_SHARED)
def _shared(parameters: Parameters) -> Parameters:
    """The first object that was equal. Ours are the same for all connections, and clients of one
    kind have the same ones: half a kilobyte less for each connection."""
    return parameters


def _or_default(value: int | None, default: int) -> int:
    return default if value is None else value
