"""Congestion control: how many bytes may be in flight, and how fast they leave (RFC 9002 §7).

What all algorithms have in common is here: the bytes in flight, the pacer, and the calls by which
`Recovery` and the `Sender` tell a controller what happened. A controller decides; it holds nothing
of its own, `CongestionState` is all there is.

    CongestionController ─┬─ LossBased ─┬─ Reno     loss_based.py, reno.py     RFC 9002 §7
                          │             └─ Cubic    cubic.py                   RFC 9438
                          └─ Bbr                    bbr/             draft-ietf-ccwg-bbr

One call per ACK frame, however much it acknowledges.
"""

from __future__ import annotations

from typing import Final, Literal

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.transport.loss import pacing
from quicbaton.transport.loss.bbr import state as bbr
from quicbaton.transport.state import NEVER, NONE, CongestionState, SentRun

#: RFC 9002 §7.2: the smallest window, in datagrams.
MINIMUM_WINDOW_DATAGRAMS: Final = 2

_ALGORITHMS: Final[dict[str, Literal["reno", "cubic", "bbr"]]] = {
    "reno": "reno",
    "cubic": "cubic",
    "bbr": "bbr",
}


def initial(algorithm: str, datagram_bytes: int, now_us: int) -> CongestionState:
    """The state of an unknown path; `algorithm` is "cubic", "reno" or "bbr".

    Raises ConfigurationError for another algorithm.
    """
    known = check_algorithm(algorithm)
    window = pacing.initial_window_bytes(datagram_bytes)
    return CongestionState(
        algorithm=known,
        window_bytes=window,
        threshold_bytes=NONE,
        in_flight_bytes=0,
        abandoned_bytes=0,
        datagram_bytes=datagram_bytes,
        app_limited=False,
        recovery_started_us=NEVER,
        recovery_flight_bytes=0,
        acked_bytes=0,
        cubic_window_max=0,
        cubic_prior_window=0,
        cubic_k_s=0,
        cubic_elapsed_us=0,
        cubic_updated_us=NEVER,
        cubic_reno_window=0,
        cubic_carry=0,
        hystart_round_end=NONE,
        hystart_last_min_rtt_us=NONE,
        hystart_round_min_rtt_us=NONE,
        hystart_samples=0,
        hystart_css_rounds=NONE,
        hystart_css_baseline_us=NONE,
        pacing_tokens_bytes=window,
        pacing_updated_us=now_us,
        bbr=bbr.initial(now_us) if known == "bbr" else None,
        undo=None,
    )


def check_algorithm(name: str) -> Literal["reno", "cubic", "bbr"]:
    """`name`, if it is an algorithm's; ConfigurationError if not."""
    known = _ALGORITHMS.get(name)
    if known is None:
        raise ConfigurationError(
            f"congestion control must be one of {', '.join(_ALGORITHMS)}, not {name!r}"
        )
    return known


class CongestionController:
    """Drives a `CongestionState`. `algorithms.controller` makes the one that a state names."""

    def __init__(self, state: CongestionState) -> None:
        self._state = state

    # --- getters --------------------------------------------------------------------------------

    def room_bytes(self) -> int:
        """How much more may be in flight. PTO probes may exceed it (RFC 9002 §7.5)."""
        state = self._state
        room = state.window_bytes - state.in_flight_bytes
        return room if room > 0 else 0

    # --- the sender -----------------------------------------------------------------------------

    def on_sent(self, run: SentRun) -> None:
        """A packet, or a whole train, that counts as in flight was sent.

        It is charged to the pacer too.
        """
        state = self._state
        size_bytes = run.count * run.size
        state.in_flight_bytes += size_bytes
        state.pacing_tokens_bytes -= size_bytes

    def on_turn_ended(self, app_limited: bool, out_of_data: bool) -> None:
        """The sender has sent what it may, and why it stopped.

        `app_limited`: it had nothing to send, or no flow control credit, with room in the window.
        Waiting for the pacer is not that (RFC 9002 §7.8). `out_of_data`: it had nothing to send.
        """
        raise NotImplementedError

    def pacing_budget_bytes(self, smoothed_rtt_us: int, now_us: int, late_us: int = 0) -> int:
        """How much the pacer lets go now (RFC 9002 §7.7), where the end of a wait is noticed
        `late_us` too late."""
        return pacing.refill(self._state, smoothed_rtt_us, now_us, late_us)

    def pacing_ready_at_us(self, smoothed_rtt_us: int, want_bytes: int, now_us: int) -> int:
        """When to send `want_bytes`, or what the bucket holds if it is less; `now_us`: at once.

        Compare the time with now: a budget below `want_bytes` may be all there ever is.
        """
        return pacing.ready_at_us(self._state, smoothed_rtt_us, want_bytes, now_us)

    # --- loss detection -------------------------------------------------------------------------

    def on_acked(
        self,
        acked_bytes: int,
        newest: SentRun,
        largest_number: int,
        next_number: int,
        latest_rtt_us: int,
        smoothed_rtt_us: int,
        min_rtt_us: int,
        now_us: int,
    ) -> None:
        """An ACK frame newly acknowledged `acked_bytes` that were in flight, all told.

        `newest` of them was sent last, `next_number` is the next packet number to be sent,
        `latest_rtt_us` 0 or less where there is no sample.
        """
        raise NotImplementedError

    def on_lost(self, lost: list[SentRun], lost_bytes: int, now_us: int) -> None:
        """Packets in flight, ascending and `lost_bytes` together, were declared lost."""
        raise NotImplementedError

    def on_late(self, late_bytes: int, declared_at_us: int, now_us: int) -> None:
        """Packets that were declared lost at `declared_at_us` were acknowledged now."""
        raise NotImplementedError

    def on_congestion_marked(self, newest_sent_at_us: int, now_us: int) -> None:
        """The peer reports an increase of its ECN-CE count (RFC 9002 §7.1), in an ACK whose
        newest packet was sent at `newest_sent_at_us`."""
        raise NotImplementedError

    def on_persistent_congestion(self, now_us: int) -> None:
        """Nothing got through for long: start over from the minimum window (RFC 9002 §7.6.2)."""
        raise NotImplementedError

    def on_discarded(self, size_bytes: int) -> None:
        """`size_bytes` left the flight without a verdict: a lost MTU probe (RFC 9000 §14.4), or
        packets of a path that is not in use any more."""
        state = self._state
        from_abandoned = min(state.abandoned_bytes, size_bytes)
        if from_abandoned:
            state.abandoned_bytes -= from_abandoned
            size_bytes -= from_abandoned
        in_flight = state.in_flight_bytes - size_bytes
        if in_flight < 0:
            raise _ledger_error(-in_flight)
        state.in_flight_bytes = in_flight
        state.recovery_flight_bytes = min(state.recovery_flight_bytes, in_flight)

    # --- the path -------------------------------------------------------------------------------

    def on_path_change(self, datagram_bytes: int, now_us: int, under_way_bytes: int = 0) -> None:
        """The connection uses another path: start over (RFC 9000 §9.4).

        `under_way_bytes` are in flight on that path, which was in use before: they take up room in
        its window. Bytes in flight on others have no part in it. They must still be reported, each
        byte once: with `on_discarded`, or as acked or lost when their path came back.
        """
        state = self._state
        fresh = initial(state.algorithm, datagram_bytes, now_us)
        fresh.in_flight_bytes = under_way_bytes
        fresh.abandoned_bytes = state.abandoned_bytes + state.in_flight_bytes - under_way_bytes
        fresh.recovery_started_us = now_us
        # In place: other parts hold the same state.
        for field in CongestionState.__struct_fields__:
            setattr(state, field, getattr(fresh, field))

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        """MTU discovery found that the path carries datagrams of this size (RFC 9002 §7.2)."""
        raise NotImplementedError

    def on_resumed(self, now_us: int) -> None:
        """Another process took over: the time in transit says nothing about the path.

        It does fill the pacer's bucket, as any pause does, to two milliseconds' worth at most: the
        client has been waiting.
        """
        raise NotImplementedError

    def on_other_host(self, now_us: int) -> None:
        """Datagrams leave from another host now. The window stays, for the client's own link is
        most often the narrow one. The burst that any path must bear goes at once, since the client
        has been waiting, and the rest at its pace over a round trip (RFC 9002 §7.7).
        """
        state = self._state
        state.pacing_tokens_bytes = pacing.initial_window_bytes(state.datagram_bytes)
        state.pacing_updated_us = now_us

    # --- for the algorithms ---------------------------------------------------------------------

    def _leave_flight(self, size_bytes: int) -> int:
        """Acknowledged or lost bytes leave the flight; returns what is left of it."""
        state = self._state
        in_flight = state.in_flight_bytes - size_bytes
        if in_flight < 0:
            # A path was left and returned to: some of these count as abandoned.
            if -in_flight > state.abandoned_bytes:
                raise _ledger_error(-in_flight - state.abandoned_bytes)
            state.abandoned_bytes += in_flight
            in_flight = 0
        state.in_flight_bytes = in_flight
        return in_flight


def _ledger_error(excess_bytes: int) -> InternalError:
    return InternalError(
        f"{excess_bytes} bytes more left the flight than were sent: "
        "a packet was reported twice, or never counted"
    )
