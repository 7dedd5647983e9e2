"""The whole state of a confirmed QUIC connection, as plain data.

This file is the heart of the project: its fields move with a connection, and everything else must
be derivable. A snapshot is one `encode`; there is no capture code that could forget a field. Rules
for a new field:

* No defaults. A decoder must never invent a value: a defaulted packet number is nonce reuse.
* Times are connection time: integer microseconds since the connection began. `NEVER` (-1) is a
  timer that is not armed.
* Ranges of integers are flat ascending lists `[start, stop, start, stop, ...]`, half open
  (see `rangeset`).
* A packet's contents are recorded as data (`SentRun.frames`), never as a callback.
* Adding, removing or reordering fields changes the baton format: raise `baton.FORMAT_VERSION`.

Field writes of a Struct cost four times a local variable's: hot loops copy to locals.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from quicbaton.transport.loss.bbr.state import BbrState, DeliveryMark
from quicbaton.transport.loss.late import ReorderingState, UndoState
from quicbaton.transport.plain import MostlyZero, PlainState

#: A timer that is not armed, a number that does not exist yet.
NEVER: Final = -1
NONE: Final = -1
#: `ReceiveHalf.stop_code` of a stream that is drained: see `Drain`.
DRAINED: Final = -2

#: A socket address as the socket module gives it: (host, port) or (host, port, flow, scope).
Address = tuple[str | int, ...]

#: One frame that a sent packet carried: (frame type, a, b, c, d), by type:
#:   STREAM 0x08 (stream id, offset, length, fin)   CRYPTO 0x06 (0, offset, length, 0)
#:   ACK 0x02 (largest acknowledged, 0, 0, 0)       PING 0x01 (uid + 1 or 0, 0, 0, 0)
#:   RESET_STREAM 0x04, STOP_SENDING 0x05, MAX_STREAM_DATA 0x11, STREAM_DATA_BLOCKED 0x15
#:     (stream id, value, 0, 0)
#:   MAX_DATA 0x10, MAX_STREAMS 0x12/0x13, DATA_BLOCKED 0x14, STREAMS_BLOCKED 0x16/0x17
#:     (value, 0, 0, 0)
#:   NEW_CONNECTION_ID 0x18, RETIRE_CONNECTION_ID 0x19 (sequence, 0, 0, 0)
#:   NEW_TOKEN 0x07 (index, 0, 0, 0)   HANDSHAKE_DONE 0x1e (0, 0, 0, 0)
#:   MTU_PROBE 0x100 (datagram bytes, path serial, packet number, 0)
SentFrame = tuple[int, int, int, int, int]


class Keys(PlainState):
    """One direction's 1-RTT keys of one generation: key and IV follow from the traffic secret
    (RFC 9001 §5.1)."""

    secret: bytes

    def __repr__(self) -> str:
        return "Keys(<redacted>)"


class ProtectionState(PlainState):
    """Packet and header protection, and the key update in progress (RFC 9001 §5, §6)."""

    version: int  # QUIC version: its HKDF labels
    cipher: int  # TLS cipher suite number
    # Header protection keys survive key updates: after one they cannot be derived. Before, as they
    # follow from the secrets (§5.1), they may be empty, and are in a snapshot: 32 to 64 bytes less.
    send_hp: bytes
    recv_hp: bytes
    send: Keys
    recv: Keys
    previous_recv: Keys | None  # for packets reordered around a key update (§6.5)
    previous_recv_until_us: int  # NEVER while there is none
    send_generation: int  # the key phase bit is generation & 1
    recv_generation: int
    send_first_number: int  # first packet number sent with the present send keys
    recv_first_number: int  # lowest packet number received with the present receive keys
    send_acked: bool  # a packet of the present send generation was acknowledged (§6.1)
    update_allowed_at_us: int  # earliest time of the next update that we start (§6.5: 3 PTO)
    sent_with_key: int  # packets protected with the present send key (§6.6)
    failed_decryptions: int  # over all keys (§6.6)

    def __repr__(self) -> str:
        return (
            f"ProtectionState(cipher={self.cipher:#x}, generations="
            f"{self.send_generation}/{self.recv_generation}, <keys redacted>)"
        )


class NumberSpace(PlainState):
    """The 1-RTT packet number space: numbers sent and received (RFC 9000 §12.3, §13.2)."""

    next_number: int
    skip_at: int  # next number to leave out on purpose (RFC 9000 §21.4)
    skipped: list[int]  # ranges never sent; an ACK for one proves a second sender or a liar
    largest_acked: int  # NONE before the first ACK
    received: list[int]  # ranges of received numbers
    received_floor: int  # numbers below count as received: their ranges were forgotten
    largest_received: int
    largest_received_at_us: int
    largest_non_probing: int  # while newer packets were probing ones (§9.1); else NONE
    unacked_eliciting: int  # ack-eliciting packets received since the last ACK we sent
    ack_at_us: int  # when an ACK is due at the latest; NEVER: nothing to acknowledge
    ecn_received: list[int]  # ECT(0), ECT(1), CE counts (RFC 9000 §19.3.2)
    ecn_sent: int  # packets that we have marked ECT(0)
    ecn_acked: list[int]  # the peer's counts, in its latest ACK
    owner_first_number: int  # numbers below were sent by an earlier owner: no RTT samples


class SentRun(PlainState):
    """Consecutive packets sent at one moment: either a train of equal STREAM packets of one
    stream (`stream_id` >= 0, `frames` empty) or one packet with any frames (`count` == 1)."""

    first: int  # first packet number
    count: int
    at_us: int
    size: int  # bytes of each packet
    eliciting: bool  # ack-eliciting and counted in flight
    path: int  # the path's serial number
    marked: bool  # sent with ECT(0)
    stream_id: int  # NONE for mixed packets
    offset: int  # stream offset of the first packet's data
    chunk: int  # stream bytes per packet
    frames: list[SentFrame]
    delivery: DeliveryMark | None  # for BBR; None: the algorithm does not ask


class RecoveryState(PlainState):
    """Loss detection (RFC 9002 §5, §6)."""

    sent: list[SentRun]  # unacknowledged, ascending by number
    latest_rtt_us: int
    smoothed_rtt_us: int
    rtt_variation_us: int
    min_rtt_us: int
    has_rtt: bool
    first_rtt_at_us: int  # when the first sample was taken: persistent congestion (§7.6.2)
    pto_count: int
    probes_due: int  # PTO probes to send; not held back by the congestion window
    loss_at_us: int
    last_eliciting_at_us: int  # when the newest ack-eliciting packet was sent
    eliciting_in_flight: int  # ack-eliciting packets outstanding
    newest_acked_at_us: int  # when the newest packet acknowledged so far was sent
    reordering: ReorderingState | None  # None before the first loss


class CongestionState(PlainState):
    """Congestion control and pacing (RFC 9002 §7, RFC 9438, RFC 9406)."""

    algorithm: Literal["reno", "cubic", "bbr"]
    window_bytes: int
    threshold_bytes: int  # slow start threshold; NONE is infinity
    in_flight_bytes: int
    abandoned_bytes: int  # in flight on paths left behind: no part of the window (RFC 9000 §9.4)
    datagram_bytes: int  # max datagram size the window counts in
    app_limited: bool
    # The latest recovery period
    recovery_started_us: int  # NEVER before the first; older bytes neither cut nor grow the window
    recovery_flight_bytes: int  # of the bytes in flight, those sent before it began
    # Reno: bytes acknowledged since the window last grew in congestion avoidance
    acked_bytes: int
    # CUBIC (RFC 9438)
    cubic_window_max: MostlyZero  # W_max, bytes; 0: none
    cubic_prior_window: int  # cwnd_prior, bytes: the window before the last reduction; 0: none
    cubic_k_s: MostlyZero
    cubic_elapsed_us: int  # t: time in this congestion avoidance, less pauses
    cubic_updated_us: int  # when t was last brought up to date; NEVER outside an epoch
    cubic_reno_window: MostlyZero  # W_est, bytes
    cubic_carry: MostlyZero  # the fraction of a byte by which the window is larger
    # HyStart++ (RFC 9406), until the threshold is known
    hystart_round_end: int  # an ACK for this packet number or a later one begins a new round
    hystart_last_min_rtt_us: int  # NONE is infinity, here and below
    hystart_round_min_rtt_us: int
    hystart_samples: int
    hystart_css_rounds: int  # NONE outside conservative slow start
    hystart_css_baseline_us: int
    # Pacing: a token bucket
    pacing_tokens_bytes: int | float  # below zero after probes, which pacing does not hold back
    pacing_updated_us: int
    bbr: BbrState | None  # None unless it is the algorithm
    undo: UndoState | None  # Reno and CUBIC; None: there is nothing to take back


class SendHalf(PlainState):
    """Our sending direction of a stream (RFC 9000 §3.1)."""

    chunks: list[bytes]  # unacknowledged and unsent bytes, as the application wrote them
    starts: list[int]  # stream offset of each chunk; the first may begin below `base`
    base: int  # everything below is acknowledged
    end: int  # bytes written by the application
    next: int  # first byte never sent
    acked: list[int]  # acknowledged ranges above base
    lost: list[int]  # ranges to send again
    limit: int  # the peer's MAX_STREAM_DATA
    fin_written: bool  # the application ended the stream at `end`
    fin_due: bool  # FIN must be sent (again)
    fin_acked: bool
    reset_code: int  # NONE, or the application's error code
    reset_final: int  # final size sent in RESET_STREAM
    reset_due: bool
    reset_acked: bool
    blocked_due: bool  # STREAM_DATA_BLOCKED is to be sent
    blocked_at: int  # limit last reported as blocking; NONE
    congested: bool  # the application was told to wait and is owed StreamWritable
    urgency: int  # RFC 9218 §4.1: lower goes first, 0 to 7; 3 is normal; see streams/turns.py
    incremental: bool  # RFC 9218 §4.2: shares with its equals, else it is served to its end


class ReceiveHalf(PlainState):
    """Our receiving direction of a stream (RFC 9000 §3.2)."""

    delivered: int  # bytes given to the application as events
    highest: int  # one past the highest byte received
    final: int  # final size; NONE until known
    segments: list[tuple[int, bytes]]  # out of order: disjoint, ascending by offset
    limit: int  # MAX_STREAM_DATA that we have advertised
    limit_due: bool
    window_bytes: int
    window_since_us: int  # start of the auto-tuning measurement
    consumed: int  # bytes the application has taken; credit follows it
    paused: bool  # the application holds credit back: taken bytes do not count as consumed yet
    taken: int  # bytes taken from the event queue
    fin_delivered: bool
    reset_code: int  # RESET_STREAM received; NONE
    stop_code: int  # STOP_SENDING asked for; NONE, or DRAINED
    stop_due: bool


class Stream(PlainState):
    """A stream: one half or both."""

    send: SendHalf | None
    receive: ReceiveHalf | None


class Drain(PlainState):
    """Bytes on a stream are dropped, and its peer is not asked to stop yet."""

    code: int  # of the STOP_SENDING that it would get
    limit: int  # offset from which on it is asked
    heard_us: int  # newest bytes after all that we sent had arrived; NEVER: it has not


class FlowState(PlainState):
    """Connection-level flow control and stream limits (RFC 9000 §4)."""

    send_limit: int  # the peer's MAX_DATA
    send_used: int  # sum of new bytes sent on all streams
    blocked_due: bool
    blocked_at: int
    receive_limit: int  # MAX_DATA that we have advertised
    receive_used: int  # sum of the highest offsets received
    receive_consumed: int
    receive_withheld: int  # taken from the queue of paused streams, not consumed yet
    receive_limit_due: bool
    window_bytes: int
    window_since_us: int
    # Streams: [bidirectional, unidirectional]
    peer_streams_limit: list[int]  # MAX_STREAMS that we advertised
    peer_streams_seen: list[int]  # streams the peer has opened, skipped ones included
    peer_streams_closed: list[int]  # of these, finished: credit to give back
    peer_streams_window: list[int]  # how many may be open at once
    peer_streams_due: list[bool]
    peer_streams_withheld: list[int]  # finished by a reset: credit that is to wait
    aborts_paid_at_us: int  # when the last of the streams that a reset finished is paid for
    own_streams_limit: list[int]  # the peer's MAX_STREAMS
    own_streams_opened: list[int]
    own_streams_blocked_due: list[bool]
    own_streams_blocked_at: list[int]


class LocalId(PlainState):
    """A connection ID that we issued: packets to us carry it."""

    sequence: int
    cid: bytes
    token: bytes  # stateless reset token
    due: bool  # NEW_CONNECTION_ID is to be sent (again)
    acked: bool  # the peer acknowledged it, or it came in the handshake


class PeerId(PlainState):
    """A connection ID that the peer issued: packets to it carry it."""

    sequence: int
    cid: bytes
    token: bytes  # empty when none came with it
    paths: list[int]  # serial numbers of the paths that use it; empty: spare

    @property
    def path(self) -> int:
        """The path that has used it longest; NONE: none does."""
        return self.paths[0] if self.paths else NONE


class IdsState(PlainState):
    """Connection IDs in both directions (RFC 9000 §5.1)."""

    local: list[LocalId]  # ascending by sequence number
    local_next_sequence: int
    local_sent: int  # sequence numbers below were sent: only these can the peer retire
    local_retire_prior_to: int  # Retire Prior To that we ask for
    local_limit: int  # the peer's active_connection_id_limit
    peer: list[PeerId]
    peer_retire_prior_to: int  # the highest that we were asked for
    peer_seen: list[int]  # ranges of sequence numbers seen
    peer_retire_due: list[int]  # RETIRE_CONNECTION_ID to send (again)
    peer_retire_unacked: list[int]
    alias: bytes  # the client's first destination ID, routed until alias_until_us; empty: gone
    alias_until_us: int


class PathState(PlainState):
    """A network path: our address and the peer's (RFC 9000 §8, §9; RFC 8899)."""

    serial: int
    remote: Address
    local: Address  # empty where the socket has one address only
    used: bool  # a non-probing packet came over it (§9.1): data may be sent there
    validated: bool
    full_size_validated: bool  # a challenge padded to 1200 bytes was answered (§8.2.1)
    local_sequence: int  # number of our ID that the peer's packets name there; NONE: unknown
    heard: int  # larger than that of the paths from which nothing came since
    received_bytes: int  # anti-amplification, until validated (§8.1)
    sent_bytes: int
    challenges: list[tuple[bytes, bool]]  # PATH_CHALLENGEs unanswered: data, padded to 1200
    challenge_due: bool
    challenge_tries: int  # of the validation that is running; 0: none
    challenge_at_us: int  # when to try, again, or give up; NEVER: no validation is running
    challenged_us: int  # when the latest validation began; NEVER: none did
    responses: list[bytes]  # PATH_RESPONSEs to send
    mtu_bytes: int  # datagram size that the path carries
    mtu_ceiling_bytes: int
    mtu_limit_bytes: int  # sizes above failed in the present search
    mtu_probe_bytes: int  # size under test; 0: none in flight
    mtu_probe_number: int  # its packet number
    mtu_failures: int  # of the size under test
    mtu_losses: int  # losses of full-sized packets in a row: a black hole (RFC 8899 §4.3)
    mtu_at_us: int  # next probe
    ecn: int  # whether it carries ECN marks: see paths.ecn
    ecn_unproved: int  # packets marked to try that, less those that were lost


class CryptoState(PlainState):
    """Post-handshake CRYPTO: session tickets (RFC 9000 §7.5)."""

    data: bytes  # what we send, unacknowledged, from offset `base` on
    base: int
    due: list[int]  # ranges to send (again)
    acked: list[int]  # acknowledged ranges above base
    delivered: int  # bytes received in order
    segments: list[tuple[int, bytes]]  # received out of order


class CloseState(PlainState):
    """How the connection ended or is ending (RFC 9000 §10)."""

    error_code: int
    frame_type: int  # NONE: closed by the application
    reason: str
    by_peer: bool
    reported: bool  # ConnectionTerminated was queued


class Parameters(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Transport parameters of one side that matter after the handshake (RFC 9000 §18.2). They never
    change, so connections that have the same ones may share them."""

    max_idle_timeout_ms: int
    max_udp_payload_bytes: int
    ack_delay_exponent: int
    max_ack_delay_ms: int
    stream_data_bidi_local: int
    stream_data_bidi_remote: int
    stream_data_uni: int
    active_connection_id_limit: int
    disable_active_migration: bool
    max_datagram_frame_bytes: int  # 0: no DATAGRAM frames (RFC 9221)
    grease_quic_bit: bool  # takes packets whose fixed bit is zero (RFC 9287)


# --- undelivered events: what `next_event` will say -------------------------------------------


class _Event(Struct, array_like=True, forbid_unknown_fields=True, tag_field="t"):
    pass


class StreamDataEvent(_Event, tag=0):
    stream_id: int
    data: bytes
    end_stream: bool


class StreamResetEvent(_Event, tag=1):
    stream_id: int
    error_code: int


class StopSendingEvent(_Event, tag=2):
    stream_id: int
    error_code: int


class DatagramEvent(_Event, tag=3):
    data: bytes


class PingAckedEvent(_Event, tag=4):
    uid: int


class TerminatedEvent(_Event, tag=5):
    error_code: int
    frame_type: int  # NONE: none
    reason: str


class IdIssuedEvent(_Event, tag=6):
    cid: bytes


class IdRetiredEvent(_Event, tag=7):
    cid: bytes


class NegotiatedEvent(_Event, tag=8):
    alpn: str


class HandshakeCompletedEvent(_Event, tag=9):
    alpn: str
    early_data_accepted: bool
    session_resumed: bool


class WritableEvent(_Event, tag=10):
    stream_id: int


Event = (
    StreamDataEvent
    | StreamResetEvent
    | StopSendingEvent
    | DatagramEvent
    | PingAckedEvent
    | TerminatedEvent
    | IdIssuedEvent
    | IdRetiredEvent
    | NegotiatedEvent
    | HandshakeCompletedEvent
    | WritableEvent
)


class ConnectionState(PlainState):
    """The whole state of a connection. See the module's head for the rules."""

    is_client: bool
    name: bytes  # our first connection ID: what commands and handoffs call the connection
    original_id: bytes  # the client's first destination ID: the connection's name in qlogs
    alpn: str
    server_name: str
    early_data_accepted: bool
    session_resumed: bool
    peer_certificates: list[bytes]  # DER, leaf first
    local: Parameters
    remote: Parameters
    clock_us: int  # latest connection time that the connection has seen
    protection: ProtectionState
    numbers: NumberSpace
    recovery: RecoveryState
    congestion: CongestionState
    flow: FlowState
    streams: dict[int, Stream]
    drains: dict[int, Drain]  # streams that are drained: see streams/draining.py
    finished: list[list[int]]  # finished streams, ranges of ordinals, by type (id & 3)
    order: list[int]  # streams with something to send, the next one first: see streams/turns.py
    ids: IdsState
    paths: list[PathState]  # paths[0] is the active one
    next_path_serial: int
    measured_path: int  # serial number of the path that RTT and congestion control are about
    unproved_from: int  # packet that led off a validated path; NONE: the active one is validated
    crypto: CryptoState
    handshake_done_due: bool
    handshake_done_acked: bool
    tokens_due: list[int]  # indexes of NEW_TOKENs to send (again)
    tokens: list[bytes]  # those that are not acknowledged; empty ones are
    tokens_first: int  # index of the first of them: none is used twice
    pings_due: list[int]  # uids
    next_ping_uid: int  # as `Connection.next_ping_uid` gives them out, over all owners
    datagrams: list[bytes]  # DATAGRAM frames to send
    datagrams_dropped: int  # of these, dropped unsent: too many waited, or the MTU shrank
    events: list[Event]
    idle_timeout_us: int  # 0: none
    idle_from_us: int  # last restart of the idle timer (RFC 9000 §10.1)
    idle_sent_since: bool  # an ack-eliciting packet was sent since the last receipt
    keep_alive_us: int  # 0: none
    closing: CloseState | None
    close_due: bool  # CONNECTION_CLOSE is to be sent
    close_packets: int  # packets received while closing; each power of two is answered
    close_at_us: int  # end of the closing or draining period
    closed: bool  # over: nothing is sent or received any more
