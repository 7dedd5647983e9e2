"""What an ACK tells about the path: the rate of delivery, losses, the round trip (draft §4).

A train is sent at one moment, so its packets share one record of what had been delivered then
(`SentRun.delivery`, the draft's P), as §4.1.3.1 recommends for segmentation offload.

What an earlier owner sent gives no rate, nor does what took another path: either its round trip or
the silence before it was not the path's.
"""

from __future__ import annotations

from quicbaton.transport.loss.bbr.state import BbrState, Rate
from quicbaton.transport.state import CongestionState, SentRun


class Sample:
    """What one ACK tells: RS of the draft (§2.2)."""

    __slots__ = (
        "acked_bytes",
        "app_limited",
        "delivered_bytes",
        "in_flight_bytes",
        "loss_round_start",
        "lost_bytes",
        "now_us",
        "prior_bytes",
        "rate",
        "round_start",
        "rtt_us",
    )

    def __init__(self, acked_bytes: int, rtt_us: int, now_us: int) -> None:
        self.now_us = now_us
        self.acked_bytes = acked_bytes
        #: 0: none.
        self.rtt_us = rtt_us
        #: Bytes per µs; 0: none.
        self.rate: Rate = 0
        #: Delivered between the sending of the newest packet and now; 0 without a sample.
        self.delivered_bytes = 0
        #: Delivered, over all, when the newest packet was sent; and what was in flight then.
        self.prior_bytes = 0
        self.in_flight_bytes = 0
        #: Lost since then.
        self.lost_bytes = 0
        self.app_limited = True
        self.round_start = False
        self.loss_round_start = False


def on_sent(state: CongestionState, bbr: BbrState, run: SentRun) -> None:
    """OnPacketSent (§4.1.2.2). The run counts as in flight already."""
    if state.in_flight_bytes == run.count * run.size:
        bbr.first_sent_us = bbr.delivered_at_us = run.at_us
    run.delivery = (
        bbr.delivered_bytes,
        bbr.delivered_at_us,
        bbr.first_sent_us,
        bbr.lost_bytes,
        state.in_flight_bytes,
        bbr.app_limited_until != 0,
    )


def on_acked(
    bbr: BbrState, acked_bytes: int, newest: SentRun, rtt_us: int, min_rtt_us: int, now_us: int
) -> Sample:
    """UpdateRateSample and GenerateRateSample (§4.1.2.3)."""
    delivered_bytes = bbr.delivered_bytes + acked_bytes
    bbr.delivered_bytes = delivered_bytes
    bbr.delivered_at_us = now_us
    if bbr.app_limited_until and delivered_bytes > bbr.app_limited_until:
        bbr.app_limited_until = 0
    sample = Sample(acked_bytes, max(rtt_us, 0), now_us)
    mark = newest.delivery
    if mark is None:
        return sample  # sent before there was a BBR
    prior_bytes, prior_at_us, first_sent_us, prior_lost_bytes, in_flight_bytes, limited = mark
    sample.prior_bytes = prior_bytes
    sample.in_flight_bytes = in_flight_bytes
    sample.lost_bytes = bbr.lost_bytes - prior_lost_bytes
    if newest.at_us < bbr.sampled_from_us:
        return sample
    bbr.first_sent_us = newest.at_us
    sample.app_limited = limited
    sample.delivered_bytes = delivered_bytes - prior_bytes
    interval_us = max(newest.at_us - first_sent_us, now_us - prior_at_us)
    if interval_us >= min_rtt_us and interval_us > 0:
        sample.rate = sample.delivered_bytes / interval_us
    return sample


def note_app_limited(state: CongestionState, bbr: BbrState) -> None:
    """MarkConnectionAppLimited (§4.1.2.4): what is sent next follows a gap, until all that is in
    flight has arrived."""
    bbr.app_limited_until = max(bbr.delivered_bytes + state.in_flight_bytes, 1)
