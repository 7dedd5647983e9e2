"""aioquic's 1-RTT packets in flight, as records of their contents.

aioquic keeps for every packet the methods to call when it is acknowledged or lost. Each method and
its arguments tell what the packet carried; the table here translates them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionId
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from quicbaton.errors import RefusedError
from quicbaton.reasons import Reason
from quicbaton.transport import frames as f
from quicbaton.transport.state import NONE, SentFrame, SentRun

#: From a delivery handler's owner and arguments to the frames that it stands for. The methods
#: differ too much for a common type.
_Reader = Callable[..., list[SentFrame]]


def sent_runs(quic: QuicConnection, to_us: Callable[[float | None], int]) -> list[SentRun]:
    """The unacknowledged 1-RTT and 0-RTT packets that count as in flight, ascending.

    Raises RefusedError when a packet carried something that this version of aioquic did not send.
    """
    return [
        _run(packet, to_us)
        for packet in one_rtt_space(quic).sent_packets.values()
        if packet.is_ack_eliciting
    ]


def one_rtt_space(quic: QuicConnection) -> QuicPacketSpace:
    # The spaces are listed in the order Initial, Handshake, application data.
    return quic._loss.spaces[-1]


def carried(runs: list[SentRun], kind: int) -> list[SentFrame]:
    """All frames of type `kind` in flight."""
    return [frame for run in runs for frame in run.frames if frame[0] == kind]


def _run(packet: QuicSentPacket, to_us: Callable[[float | None], int]) -> SentRun:
    frames: list[SentFrame] = []
    for handler, arguments in packet.delivery_handlers:
        # Every handler is a bound method: the function tells the frame, the object whose it is.
        reader = _READERS.get(getattr(handler, "__func__", None))
        if reader is None:
            raise RefusedError(
                f"a packet in flight reports to {handler!r}, which no version of aioquic that we "
                "know has: review handshake/inflight.py",
                code=Reason.UNKNOWN_DELIVERY_HANDLER,
            )
        frames += reader(getattr(handler, "__self__", None), *arguments)
    return SentRun(
        first=packet.packet_number,
        count=1,
        at_us=to_us(packet.sent_time),
        size=packet.sent_bytes,
        eliciting=True,
        # aioquic does not record the path; before promotion there is hardly ever another one.
        path=0,
        marked=False,
        stream_id=NONE,
        offset=0,
        chunk=0,
        frames=frames,
        delivery=None,
    )


def _ack(_quic: QuicConnection, _space: QuicPacketSpace, largest: int) -> list[SentFrame]:
    return [(f.ACK, largest, 0, 0, 0)]


def _limit(_quic: QuicConnection, limit: Limit) -> list[SentFrame]:
    return [(limit.frame_type, limit.sent, 0, 0, 0)]


def _handshake_done(_quic: QuicConnection) -> list[SentFrame]:
    return [(f.HANDSHAKE_DONE, 0, 0, 0, 0)]


def _stream_limit(_quic: QuicConnection, stream: QuicStream) -> list[SentFrame]:
    assert stream.stream_id is not None
    return [(f.MAX_STREAM_DATA, stream.stream_id, stream.max_stream_data_local_sent, 0, 0)]


def _new_id(_quic: QuicConnection, issued: QuicConnectionId) -> list[SentFrame]:
    return [(f.NEW_CONNECTION_ID, issued.sequence_number, 0, 0, 0)]


def _challenge(_quic: QuicConnection, _path: Any) -> list[SentFrame]:
    # The path's own state repeats a challenge.
    return []


def _ping(_quic: QuicConnection, uids: tuple[int, ...]) -> list[SentFrame]:
    return [(f.PING, uid + 1, 0, 0, 0) for uid in uids] or [(f.PING, 0, 0, 0, 0)]


def _retirement(_quic: QuicConnection, sequence: int) -> list[SentFrame]:
    return [(f.RETIRE_CONNECTION_ID, sequence, 0, 0, 0)]


def _data(sender: QuicStreamSender, start: int, stop: int, fin: bool) -> list[SentFrame]:
    if sender._stream_id is None:
        return [(f.CRYPTO, 0, start, stop - start, 0)]
    return [(f.STREAM, sender._stream_id, start, stop - start, int(fin))]


def _reset(sender: QuicStreamSender) -> list[SentFrame]:
    assert sender._stream_id is not None
    return [(f.RESET_STREAM, sender._stream_id, sender._reset_error_code or 0, 0, 0)]


def _stop(receiver: QuicStreamReceiver) -> list[SentFrame]:
    assert receiver._stream_id is not None
    return [(f.STOP_SENDING, receiver._stream_id, receiver._stop_error_code or 0, 0, 0)]


_READERS: dict[object, _Reader] = {
    QuicConnection._on_ack_delivery: _ack,
    QuicConnection._on_connection_limit_delivery: _limit,
    QuicConnection._on_handshake_done_delivery: _handshake_done,
    QuicConnection._on_max_stream_data_delivery: _stream_limit,
    QuicConnection._on_new_connection_id_delivery: _new_id,
    QuicConnection._on_path_challenge_delivery: _challenge,
    QuicConnection._on_ping_delivery: _ping,
    QuicConnection._on_retire_connection_id_delivery: _retirement,
    QuicStreamSender.on_data_delivery: _data,
    QuicStreamSender.on_reset_delivery: _reset,
    QuicStreamReceiver.on_stop_sending_delivery: _stop,
}
