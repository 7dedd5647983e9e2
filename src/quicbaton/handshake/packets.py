"""Keys, packet numbers, recovery and congestion control at promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext
from aioquic.tls import Epoch

from quicbaton.errors import RefusedError
from quicbaton.handshake import inflight
from quicbaton.reasons import Reason
from quicbaton.transport import rangeset
from quicbaton.transport.loss import congestion, recovery
from quicbaton.transport.packets.cipher import header_key, next_keys
from quicbaton.transport.state import (
    NEVER,
    NONE,
    CongestionState,
    Keys,
    NumberSpace,
    ProtectionState,
    RecoveryState,
    SentRun,
)

#: Key updates before promotion that we follow; a peer needs a round trip for each.
_MAX_KEY_UPDATES: Final = 16

ToMicroseconds = Callable[[float | None], int]


def import_protection(quic: QuicConnection, now_us: int) -> ProtectionState:
    """The 1-RTT keys, of whatever generation."""
    # TLS keeps the secrets of the first generation; header protection keys come from these and
    # do not change (RFC 9001 §6.1).
    pair = quic._cryptos[Epoch.ONE_RTT]
    version, suite = pair.send.version, pair.send.cipher_suite
    if version is None or suite is None:
        raise RefusedError("the 1-RTT keys are not there", code=Reason.NOT_READY)
    cipher = int(suite)
    send, send_hp, send_generation = _present(version, cipher, quic.tls._enc_key, pair.send)
    recv, recv_hp, recv_generation = _present(version, cipher, quic.tls._dec_key, pair.recv)
    if send_generation:
        # aioquic does not know which of our packets the present key has protected. Only the latest
        # is assumed, so that an ACK for an older one does not count as one for the key.
        send_first, sent_with_key = quic._packet_number - 1, 1
    else:
        # An upper bound: the packets of all spaces.
        send_first, sent_with_key = 0, quic._packet_number
    space = inflight.one_rtt_space(quic)
    return ProtectionState(
        version=version,
        cipher=cipher,
        send_hp=send_hp,
        recv_hp=recv_hp,
        send=send,
        recv=recv,
        # aioquic forgets the old key at an update.
        previous_recv=None,
        previous_recv_until_us=NEVER,
        send_generation=send_generation,
        recv_generation=recv_generation,
        send_first_number=send_first,
        recv_first_number=space.largest_received_packet if recv_generation else 0,
        send_acked=False,
        update_allowed_at_us=now_us,
        sent_with_key=sent_with_key,
        # aioquic does not count them; the limits are 2^36 and more (RFC 9001 §6.6).
        failed_decryptions=0,
    )


def _present(
    version: int, cipher: int, first_secret: bytes | None, context: CryptoContext
) -> tuple[Keys, bytes, int]:
    """The present keys, the header protection key if it does not follow from them, and how many key
    updates led there (RFC 9001 §6.1)."""
    if first_secret is None or context.secret is None:
        raise RefusedError("the 1-RTT keys are not there", code=Reason.NOT_READY)
    keys = first = Keys(first_secret)
    for generation in range(_MAX_KEY_UPDATES):
        if keys.secret == context.secret:
            hp = header_key(version, cipher, b"", first) if generation else b""
            return keys, hp, generation
        keys = next_keys(version, cipher, keys)
    raise RefusedError(
        f"more than {_MAX_KEY_UPDATES} key updates before promotion",
        code=Reason.TOO_MANY_KEY_UPDATES,
    )


def import_numbers(
    quic: QuicConnection, to_us: ToMicroseconds, ecn_received: list[int]
) -> NumberSpace:
    space = inflight.one_rtt_space(quic)
    window = space.received_packets
    received: list[int] = []
    # The ACK queue lacks the numbers that need no more acknowledgement. They must not be taken for
    # new packets.
    for number in sorted(window._received):
        rangeset.add(received, number, number + 1)
    for item in space.ack_queue:
        rangeset.add(received, item.start, item.stop)
    rangeset.subtract(received, 0, window._lower)
    return NumberSpace(
        next_number=quic._packet_number,
        # At once: this skips one number and chooses the place of the next gap.
        skip_at=quic._packet_number,
        skipped=[],
        # aioquic says 0 for none; number 0 is always an Initial packet's.
        largest_acked=space.largest_acked_packet or NONE,
        received=received,
        received_floor=window._lower,
        largest_received=space.largest_received_packet,
        largest_received_at_us=to_us(space.largest_received_time),
        largest_non_probing=NONE,
        unacked_eliciting=0 if space.ack_at is None else 1,
        ack_at_us=to_us(space.ack_at),
        ecn_received=ecn_received,
        ecn_sent=0,
        ecn_acked=[0, 0, 0],
        owner_first_number=0,
    )


def import_recovery(
    quic: QuicConnection, runs: list[SentRun], to_us: ToMicroseconds, now_us: int
) -> RecoveryState:
    loss = quic._loss
    state = recovery.initial(now_us)
    state.sent = runs
    state.eliciting_in_flight = len(runs)
    if runs:
        state.last_eliciting_at_us = runs[-1].at_us
    state.pto_count = loss._pto_count
    state.probes_due = int(quic._probe_pending)
    state.loss_at_us = to_us(inflight.one_rtt_space(quic).loss_time)
    if loss._rtt_initialized:
        state.has_rtt = True
        state.latest_rtt_us = _duration_us(loss._rtt_latest)
        state.smoothed_rtt_us = _duration_us(loss._rtt_smoothed)
        state.rtt_variation_us = _duration_us(loss._rtt_variance)
        state.min_rtt_us = _duration_us(loss._rtt_min)
        state.first_rtt_at_us = to_us(loss._rtt_first_sample_time)
    return state


def _duration_us(seconds: float) -> int:
    return max(1, round(seconds * 1e6))


def import_congestion(
    algorithm: str, datagram_bytes: int, runs: list[SentRun], now_us: int
) -> CongestionState:
    """A fresh window, less what aioquic has in flight: a handshake says little about a path."""
    state = congestion.initial(algorithm, datagram_bytes, now_us)
    state.in_flight_bytes = sum(run.size for run in runs)
    return state
