"""All that BBR knows, as plain data."""

from __future__ import annotations

from typing import Final, Literal

from quicbaton.transport.plain import PlainState

#: No bound: the draft's Infinity.
NONE: Final = -1

#: A rate in bytes per microsecond. Where there is none it is the integer 0 or NONE, one byte long.
Rate = int | float

Phase = Literal["startup", "drain", "down", "cruise", "refill", "up", "probe_rtt"]
#: What the ACKs that come are about (draft §2.12): nothing, the refill, the first round of up,
#: later ones, the round after up.
AckPhase = Literal["init", "refilling", "starting", "feedback", "stopping"]


#: What stood to account when a run was sent: bytes delivered, when that was last added to, when the
#: newest packet delivered had been sent, bytes lost, in flight with the run, application-limited.
DeliveryMark = tuple[int, int, int, int, int, bool]


class BbrState(PlainState):
    """BBR (draft-ietf-ccwg-bbr §2). Rates are bytes per microsecond."""

    phase: Phase
    # Delivery (§4.1.2.1)
    delivered_bytes: int  # C.delivered
    delivered_at_us: int  # C.delivered_time
    first_sent_us: int  # C.first_send_time
    lost_bytes: int  # C.lost
    app_limited_until: int  # C.app_limited: of delivered_bytes; 0: not limited
    sampled_from_us: int  # what was sent before gives no rate: see sampling
    idle_restart: bool
    # Rounds (§5.5.1)
    round_count: int
    round_end_bytes: int  # BBR.next_round_delivered
    window_full_round: int  # the latest round in which the window was full: C.is_cwnd_limited
    # How fast (§2.9.1)
    pacing_rate: Rate  # 0: nothing is known yet
    max_rates: list[Rate]  # BBR.max_bw_filter: of the previous cycle, and of this one
    rate_shortterm: Rate  # BBR.bw_shortterm; NONE is no bound, here and below
    rate_latest: Rate  # BBR.bw_latest
    # How much (§2.9.2)
    inflight_shortterm: int
    inflight_longterm: int
    inflight_latest: int
    prior_window: int  # BBR.prior_cwnd: to be restored
    in_recovery: bool
    # Losses in this round (§5.5.10)
    loss_round_end_bytes: int  # BBR.loss_round_delivered
    loss_in_round: bool
    loss_ranges: int  # runs of packets lost in this round, while in startup
    marked_in_round: bool  # the peer has reported marks of congestion
    # The shortest round trip (§2.14)
    min_rtt_us: int
    min_rtt_at_us: int  # BBR.min_rtt_stamp
    probe_rtt_min_us: int  # BBR.probe_rtt_min_delay
    probe_rtt_min_at_us: int  # BBR.probe_rtt_min_stamp
    probe_rtt_done_us: int  # BBR.probe_rtt_done_stamp; NEVER
    probe_rtt_round_done: bool
    # ACKs that come in lumps (§2.11)
    extra_acked_since_us: int
    extra_acked_delivered: int
    extra_acked: list[int]  # the most of ten rounds: bytes and round, alternating, both in order
    # Whether the pipe is full (§5.3.1.2)
    full_reached: bool
    full_now: bool
    full_rate: Rate
    full_rounds: int
    drain_started_round: int
    # The cycle of probing (§2.12)
    ack_phase: AckPhase
    cycle_started_us: int  # BBR.cycle_stamp
    probe_wait_us: int
    rounds_since_probe: int
    probe_sampled: bool  # BBR.is_bw_probe_sample
    probe_up_rounds: int
    probe_up_acked: int
    probe_up_acked_per_step: int
    probe_too_high: bool  # BBR.prev_probe_too_high
    probe_cautious: bool  # BBR.prev_probe_precautionary
    # What to go back to if the losses of this recovery were none (§2.13)
    undo_lost_bytes: int  # what counts as lost since; NONE: there is nothing to take back
    undo_phase: Literal["", "startup", "up"]  # BBR.undo_state
    undo_rate_shortterm: Rate
    undo_inflight_shortterm: int
    undo_inflight_longterm: int


def initial(now_us: int) -> BbrState:
    """OnInit (§5.2.1)."""
    return BbrState(
        phase="startup",
        delivered_bytes=0,
        delivered_at_us=now_us,
        first_sent_us=now_us,
        lost_bytes=0,
        app_limited_until=0,
        sampled_from_us=now_us,
        idle_restart=False,
        round_count=0,
        round_end_bytes=0,
        window_full_round=NONE,
        pacing_rate=0,
        max_rates=[0, 0],
        rate_shortterm=NONE,
        rate_latest=0,
        inflight_shortterm=NONE,
        inflight_longterm=NONE,
        inflight_latest=0,
        prior_window=0,
        in_recovery=False,
        loss_round_end_bytes=0,
        loss_in_round=False,
        loss_ranges=0,
        marked_in_round=False,
        min_rtt_us=NONE,
        min_rtt_at_us=now_us,
        probe_rtt_min_us=NONE,
        probe_rtt_min_at_us=now_us,
        probe_rtt_done_us=NONE,
        probe_rtt_round_done=False,
        extra_acked_since_us=now_us,
        extra_acked_delivered=0,
        extra_acked=[],
        full_reached=False,
        full_now=False,
        full_rate=0,
        full_rounds=0,
        drain_started_round=0,
        ack_phase="init",
        cycle_started_us=now_us,
        probe_wait_us=0,
        rounds_since_probe=0,
        probe_sampled=False,
        probe_up_rounds=0,
        probe_up_acked=0,
        probe_up_acked_per_step=NONE,
        probe_too_high=False,
        probe_cautious=False,
        undo_lost_bytes=NONE,
        undo_phase="",
        undo_rate_shortterm=NONE,
        undo_inflight_shortterm=NONE,
        undo_inflight_longterm=NONE,
    )
