"""What is kept of packets that count as lost, in case they were only late: see `reordering`."""

from __future__ import annotations

from quicbaton.transport.plain import MostlyZero, PlainState


class LostRun(PlainState):
    """Consecutive packets that count as lost, sent at one moment."""

    first: int
    stop: int  # the number behind the last
    size: int  # bytes of each packet
    at_us: int
    declared_at_us: int  # when they were declared lost


class ReorderingState(PlainState):
    """What losses that were none have taught: see loss/reordering.py."""

    packet_threshold: int  # RFC 9002 §6.1.1
    time_eighths: int  # §6.1.2: of a round trip
    lost: list[LostRun]  # ascending by number, for a few round trips
    quiet_losses: int  # round trips with losses since a packet was late


class UndoState(PlainState):
    """Congestion control as it stood before it answered to losses that may have been none."""

    lost_bytes: int  # what counts as lost since; 0 would mean that all of it was only late
    window_bytes: int
    threshold_bytes: int
    cubic_window_max: MostlyZero
    cubic_prior_window: int
    cubic_k_s: MostlyZero
    cubic_elapsed_us: int
    cubic_updated_us: int
    cubic_reno_window: MostlyZero
