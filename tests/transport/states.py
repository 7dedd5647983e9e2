"""Connection states for tests: built from the types alone, so that a new field needs no change."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from quicbaton.transport.state import NEVER, NONE, ConnectionState, Parameters, PathState


def blank(kind: Any) -> Any:
    """A value of the type: zeros, empties, None where allowed; structs all the way down."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        options = get_args(kind)
        return None if NoneType in options else blank(options[0])
    if origin is Literal:
        return get_args(kind)[0]
    if origin is not None:
        return origin()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(**{field.name: blank(field.type) for field in msgspec.structs.fields(kind)})
    return kind()


def parameters(stream_window: int = 1 << 20) -> Parameters:
    return Parameters(
        max_idle_timeout_ms=60_000,
        max_udp_payload_bytes=1452,
        ack_delay_exponent=3,
        max_ack_delay_ms=25,
        stream_data_bidi_local=stream_window,
        stream_data_bidi_remote=stream_window,
        stream_data_uni=stream_window,
        active_connection_id_limit=8,
        disable_active_migration=False,
        max_datagram_frame_bytes=65_535,
        grease_quic_bit=False,
    )


def connection_state(
    *,
    is_client: bool = False,
    stream_window: int = 1 << 20,
    connection_window: int = 1 << 20,
    streams: int = 128,
) -> ConnectionState:
    """A connection right after promotion: nothing sent, nothing received, limits the same on
    both sides."""
    state: ConnectionState = blank(ConnectionState)
    state.is_client = is_client
    state.alpn = "h3"
    state.local = parameters(stream_window)
    state.remote = parameters(stream_window)
    state.finished = [[], [], [], []]
    flow = state.flow
    flow.send_limit = flow.receive_limit = flow.window_bytes = connection_window
    flow.blocked_at = NONE
    flow.peer_streams_limit = [streams, streams]
    flow.peer_streams_window = [streams, streams]
    flow.own_streams_limit = [streams, streams]
    flow.peer_streams_seen = [0, 0]
    flow.peer_streams_closed = [0, 0]
    flow.peer_streams_due = [False, False]
    flow.peer_streams_withheld = [0, 0]
    flow.own_streams_opened = [0, 0]
    flow.own_streams_blocked_due = [False, False]
    flow.own_streams_blocked_at = [NONE, NONE]
    numbers = state.numbers
    numbers.largest_acked = numbers.largest_received = NONE
    numbers.ack_at_us = NEVER
    numbers.skip_at = 1 << 40
    numbers.ecn_received = [0, 0, 0]
    numbers.ecn_acked = [0, 0, 0]
    recovery = state.recovery
    recovery.smoothed_rtt_us = recovery.latest_rtt_us = recovery.min_rtt_us = 20_000
    recovery.rtt_variation_us = 5_000
    recovery.has_rtt = True
    recovery.loss_at_us = NEVER
    congestion = state.congestion
    congestion.algorithm = "reno"
    congestion.datagram_bytes = 1200
    congestion.window_bytes = 12_000
    congestion.threshold_bytes = -1
    congestion.recovery_started_us = NEVER
    congestion.hystart_css_rounds = NONE
    path: PathState = blank(PathState)
    path.remote = ("127.0.0.1", 4433)
    path.validated = True
    path.mtu_bytes = path.mtu_ceiling_bytes = 1200
    path.challenge_at_us = path.mtu_at_us = NEVER
    path.mtu_probe_number = NONE
    state.paths = [path]
    state.next_path_serial = 1
    state.idle_timeout_us = 60_000_000
    return state


def through_bytes(state: ConnectionState) -> ConnectionState:
    """The state as another process would get it."""
    encoded = msgspec.msgpack.encode(state)
    decoded = msgspec.msgpack.decode(encoded, type=ConnectionState)
    assert decoded == state
    return decoded
