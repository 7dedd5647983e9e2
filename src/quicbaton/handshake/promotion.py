"""The moment our transport takes over: aioquic's connection becomes a `ConnectionState`.

Right after the `receive_datagram` in which the handshake was confirmed and before the next
`datagrams_to_send`, a server's aioquic has sent nothing that counts in the 1-RTT space (a few ACKs
for 0-RTT packets at most), and HANDSHAKE_DONE and the session tickets are pending. A client has
sent its requests. The whole state is read at any phase, so promotion may also come later. Then the
packets that are in flight become our transport's.

Early data (0-RTT) is accepted and waits for promotion: see docs/decisions/0001-early-data.md.

aioquic keeps one packet number counter for all spaces, so every number it used for any packet lies
below the first that we use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from aioquic.quic import events
from aioquic.quic.connection import QuicConnection
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.tls import Epoch
from cryptography.hazmat.primitives.serialization import Encoding

from quicbaton.errors import RefusedError
from quicbaton.handshake import inflight, post_handshake
from quicbaton.handshake.addressing import import_ids, import_paths
from quicbaton.handshake.packets import (
    import_congestion,
    import_numbers,
    import_protection,
    import_recovery,
)
from quicbaton.handshake.parameters import (
    allows_grease,
    import_parameters,
    received_parameters,
    sent_parameters,
)
from quicbaton.handshake.preparation import ready
from quicbaton.handshake.streams import ImportedStreams, import_crypto
from quicbaton.reasons import Reason
from quicbaton.transport import frames as f
from quicbaton.transport.connection import FIRST_PING_UID
from quicbaton.transport.loss.recovery import GRANULARITY_US
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Address,
    ConnectionState,
    DatagramEvent,
    Event,
    HandshakeCompletedEvent,
    IdIssuedEvent,
    IdRetiredEvent,
    NegotiatedEvent,
    Parameters,
    PingAckedEvent,
    RecoveryState,
    StopSendingEvent,
    StreamDataEvent,
    StreamResetEvent,
)

#: PTOs for which the client's first destination ID stays routed: packets that the client sent
#: before it learned ours may still be under way.
_ALIAS_PTOS: Final = 3


class Promotion(NamedTuple):
    """A promoted connection and the objects beside its state."""

    state: ConnectionState
    #: Connection time 0 on the clock that `now` was read from.
    origin_s: float
    #: Reads session tickets for a client; None for a server.
    tls: post_handshake.PostHandshakeTls | None
    #: The program asked for a key update before it was allowed: start one.
    key_update_wanted: bool
    #: aioquic's trace of the handshake, to be continued; None without a logger.
    trace: QuicLoggerTrace | None


def promote(
    quic: QuicConnection,
    now: float,
    *,
    local_address: Address,
    algorithm: str | None = None,
    ecn_received: Sequence[int] = (0, 0, 0),
) -> Promotion:
    """Extract the whole state of a `ready` connection; `quic` must not be used afterwards.

    `now` is of the clock that aioquic was driven with, in seconds. `local_address` is ours; empty
    where the socket has only one. `algorithm` names the congestion control; None means that of
    aioquic's configuration. `ecn_received` are the counts that `EcnCounts` has of 1-RTT packets.

    Raises RefusedError when the connection is not ready, or in a state that cannot be extracted.
    """
    if not ready(quic):
        raise RefusedError(
            "only a connection whose handshake is confirmed and which is not closing can be "
            "promoted; ask ready() first",
            code=Reason.NOT_READY,
        )
    origin_s = _origin_s(quic, now)

    def to_us(at_s: float | None) -> int:
        return NEVER if at_s is None else max(0, round((at_s - origin_s) * 1e6))

    state = _extract(
        quic,
        to_us,
        to_us(now),
        local_address,
        algorithm or quic.configuration.congestion_control_algorithm,
        list(ecn_received),
    )
    key_update_wanted = (
        quic._key_update_pending or quic._cryptos[Epoch.ONE_RTT]._update_key_requested
    )
    return Promotion(
        state=state,
        origin_s=origin_s,
        tls=post_handshake.of_client(quic),
        key_update_wanted=key_update_wanted,
        trace=quic._quic_logger,
    )


def dismantle(quic: QuicConnection) -> None:
    """Take apart a connection that aioquic has finished with, promoted or failed.

    Its 250 objects refer to each other and would wait for the garbage collector, which would stop
    the whole process to find them. A client's TLS context is kept.
    """
    parts = vars(quic)
    if "tls" in parts and not quic.configuration.is_client:
        vars(quic.tls).clear()
    parts.clear()


def _extract(
    quic: QuicConnection,
    to_us: Callable[[float | None], int],
    now_us: int,
    local_address: Address,
    algorithm: str,
    ecn_received: list[int],
) -> ConnectionState:
    is_client = quic.configuration.is_client
    promised = sent_parameters(quic)
    local = import_parameters(promised)
    remote = import_parameters(
        received_parameters(quic), grease_quic_bit=allows_grease(quic.tls.received_extensions)
    )
    runs = inflight.sent_runs(quic, to_us)
    streams = ImportedStreams(quic, local, remote, now_us)
    recovery = import_recovery(quic, runs, to_us, now_us)
    pto_us = _pto_us(recovery, remote)
    paths = import_paths(quic, local_address, remote.max_udp_payload_bytes, now_us, pto_us)
    handshake_done_due = quic._handshake_done_pending
    handshake_done_unacked = handshake_done_due or inflight.carried(runs, f.HANDSHAKE_DONE)
    return ConnectionState(
        is_client=is_client,
        name=quic._local_initial_source_connection_id,
        original_id=quic.original_destination_connection_id,
        alpn=quic.tls.alpn_negotiated or "",
        server_name=quic.tls._server_name or "",
        early_data_accepted=quic.tls.early_data_accepted,
        session_resumed=quic.tls.session_resumed,
        peer_certificates=_certificates(quic),
        local=local,
        remote=remote,
        clock_us=now_us,
        protection=import_protection(quic, now_us),
        numbers=import_numbers(quic, to_us, ecn_received),
        recovery=recovery,
        congestion=import_congestion(algorithm, paths[0].mtu_bytes, runs, now_us),
        flow=streams.flow(
            promised.initial_max_data or 0,
            (promised.initial_max_streams_bidi or 0, promised.initial_max_streams_uni or 0),
        ),
        streams=streams.streams,
        drains={},
        finished=streams.finished(),
        order=streams.order(),
        ids=import_ids(quic, runs, now_us + _ALIAS_PTOS * pto_us),
        paths=paths,
        next_path_serial=len(paths),
        measured_path=paths[0].serial,
        unproved_from=NONE if paths[0].validated else 0,
        crypto=import_crypto(quic),
        handshake_done_due=handshake_done_due,
        handshake_done_acked=is_client or not handshake_done_unacked,
        tokens_due=[],
        tokens=[],
        tokens_first=0,
        pings_due=list(quic._ping_pending),
        next_ping_uid=FIRST_PING_UID,
        datagrams=list(quic._datagrams_pending),
        datagrams_dropped=0,
        events=[_event(event) for event in quic._events],
        idle_timeout_us=_idle_timeout_us(local, remote),
        # A ready connection has just processed a packet of the peer.
        idle_from_us=now_us,
        idle_sent_since=quic._ack_eliciting_sent_since_receipt,
        keep_alive_us=0,
        closing=None,
        close_due=False,
        close_packets=0,
        close_at_us=NEVER,
        closed=False,
    )


def _pto_us(recovery: RecoveryState, remote: Parameters) -> int:
    """The probe timeout (RFC 9002 §6.2.1)."""
    variation_us = max(4 * recovery.rtt_variation_us, GRANULARITY_US)
    return recovery.smoothed_rtt_us + variation_us + remote.max_ack_delay_ms * 1000


def _origin_s(quic: QuicConnection, now: float) -> float:
    """The earliest moment that any imported time names."""
    space = inflight.one_rtt_space(quic)
    times = [now]
    times += [p.sent_time for p in space.sent_packets.values() if p.sent_time is not None]
    if space.largest_received_time is not None:
        times.append(space.largest_received_time)
    if quic._loss._rtt_initialized:
        times.append(quic._loss._rtt_first_sample_time)
    return min(times)


def _certificates(quic: QuicConnection) -> list[bytes]:
    leaf = quic.tls._peer_certificate
    chain = [] if leaf is None else [leaf, *quic.tls._peer_certificate_chain]
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def _idle_timeout_us(local: Parameters, remote: Parameters) -> int:
    """The smaller of the two announced timeouts (RFC 9000 §10.1); 0 if none was announced."""
    announced = [ms for ms in (local.max_idle_timeout_ms, remote.max_idle_timeout_ms) if ms]
    return min(announced, default=0) * 1000


def _event(event: events.QuicEvent) -> Event:
    maker = _EVENT_MAKERS.get(type(event))
    if maker is None:
        raise RefusedError(f"cannot carry a {type(event).__name__}", code=Reason.UNKNOWN_EVENT)
    made: Event = maker(event)
    return made


_EVENT_MAKERS: dict[type, Callable[[Any], Event]] = {
    events.StreamDataReceived: lambda e: StreamDataEvent(e.stream_id, e.data, e.end_stream),
    events.StreamReset: lambda e: StreamResetEvent(e.stream_id, e.error_code),
    events.StopSendingReceived: lambda e: StopSendingEvent(e.stream_id, e.error_code),
    events.DatagramFrameReceived: lambda e: DatagramEvent(e.data),
    events.PingAcknowledged: lambda e: PingAckedEvent(e.uid),
    events.ConnectionIdIssued: lambda e: IdIssuedEvent(e.connection_id),
    events.ConnectionIdRetired: lambda e: IdRetiredEvent(e.connection_id),
    events.ProtocolNegotiated: lambda e: NegotiatedEvent(e.alpn_protocol or ""),
    events.HandshakeCompleted: lambda e: HandshakeCompletedEvent(
        e.alpn_protocol or "", e.early_data_accepted, e.session_resumed
    ),
}
