"""A confirmed QUIC connection as a sans-IO object over a `ConnectionState`.

Theory of operation: the state is data, and everything else here is derived from it in the
constructor. Methods come in groups by who calls them: getters (in `view`); what programs call (in
`application`); handle_* and receive_* (the runtime, when something happened); the runtime's
commands; calls that ask what to do next (`trains_to_send`, `get_timer`). Names and event classes
are those of aioquic's `QuicConnection`, so aioquic's HTTP/3 and programs written for aioquic run
on it.

`now` is the caller's monotonic clock in seconds. Inside, time is connection time; see `state`.

A connection that was frozen for a handoff is spent: every further call raises GivenAwayError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton import limits
from quicbaton.errors import (
    CallerError,
    RefusedError,
    SecondSenderError,
    TransportError,
)
from quicbaton.transport import frames as f
from quicbaton.transport import qlog, resting
from quicbaton.transport.application import ApplicationSide
from quicbaton.transport.budget import MemoryBudget
from quicbaton.transport.closing import Closing
from quicbaton.transport.delivery import Dispatcher
from quicbaton.transport.event_queue import EventQueue
from quicbaton.transport.loss.congestion import CongestionController
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.packets.acks import ReceivedNumbers
from quicbaton.transport.packets.protection import PacketProtection
from quicbaton.transport.paths.ids import ConnectionIds, IdIssuer
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.paths.paths import Paths
from quicbaton.transport.receiver import Receiver
from quicbaton.transport.sender import Sender, skip_numbers
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Address,
    ConnectionState,
)
from quicbaton.transport.streams.crypto import CryptoStream
from quicbaton.transport.streams.streams import Streams
from quicbaton.transport.timers import Timers
from quicbaton.transport.train import Train

#: A PING whose acknowledgement nobody waits for: its record's uid + 1 is 0.
_ANONYMOUS_PING: Final = -1
#: One when the baton goes, one when READY has come.
_PARTING_TRAINS: Final = 2


class Connection(ApplicationSide):
    """Drives `state`. `origin_s` is the caller's clock at connection time zero."""

    def __init__(
        self,
        state: ConnectionState,
        *,
        origin_s: float,
        issuer: IdIssuer | None,
        entropy: Callable[[int], bytes],
        budget: MemoryBudget | None = None,
        configuration: Any = None,
        on_crypto: Callable[[bytes], None] | None = None,
        on_token: Callable[[bytes], None] = lambda _token: None,
        trace: QuicLoggerTrace | None = None,
    ) -> None:
        """`budget` is what the connections of the process may hold together; without one this
        connection has one of its own."""
        super().__init__(state, configuration, trace)
        self._origin_s = origin_s
        self._memory = (budget or MemoryBudget()).open(state.name)
        self._protection = PacketProtection(state.protection, grease=state.remote.grease_quic_bit)
        self._congestion = CongestionController(state.congestion)
        self._events = EventQueue(state.events)
        self._closing = Closing(state, self._events)
        self._streams = Streams(state, self._memory, self._events)
        self._ids = ConnectionIds(
            state.ids, issuer, self._events, state.local.active_connection_id_limit
        )
        self._paths = Paths(state, self._ids, self._closing, entropy)
        self._crypto = CryptoStream(
            state.crypto, on_crypto or (_drop_crypto if state.is_client else _refuse_crypto)
        )
        received = ReceivedNumbers(state.numbers, state.local)
        dispatcher = Dispatcher(
            state,
            self._events,
            received,
            self._streams,
            self._ids,
            self._crypto,
            lambda: state.clock_us,
        )
        self._recovery = Recovery(state, self._congestion, dispatcher, trace)
        self._receiver = Receiver(
            state,
            self._events,
            self._closing,
            self._protection,
            received,
            self._recovery,
            self._streams,
            self._ids,
            self._paths,
            self._crypto,
            on_token,
            trace,
        )
        self._sender = Sender(
            state,
            self._protection,
            received,
            self._recovery,
            self._congestion,
            self._streams,
            self._ids,
            self._paths,
            self._crypto,
            entropy,
            self._memory,
            trace,
        )
        self._timers = Timers(state, self._recovery, self._streams, self._paths, self._sender)
        self._note_memory()

    @classmethod
    def resume(
        cls,
        state: ConnectionState,
        *,
        now: float,
        transit_us: int,
        issuer: IdIssuer | None,
        entropy: Callable[[int], bytes],
        other_host: bool = False,
        budget: MemoryBudget | None = None,
        configuration: Any = None,
        on_crypto: Callable[[bytes], None] | None = None,
        on_token: Callable[[bytes], None] = lambda _token: None,
        trace: QuicLoggerTrace | None = None,
    ) -> Connection:
        """Take over a frozen connection; the caller has made sure that it is the only owner.

        `transit_us` is how long the connection was frozen, as measured by the new owner: its
        time moves on by that. A random run of packet numbers is skipped (RFC 9000 §21.4), so an
        ACK for one of them proves that the old owner goes on sending.

        `other_host`: datagrams take another way from here on. Their size is searched for anew
        (RFC 9000 §14.3), and what the window allows is spread over a round trip. No `issuer`: the
        peer gets no more connection IDs, since what comes for them would not come here.
        """
        if transit_us < 0:
            raise CallerError(f"transit must not be negative, got {transit_us} µs")
        clock_us = state.clock_us + transit_us
        connection = cls(
            state,
            origin_s=now - clock_us / 1e6,
            issuer=issuer,
            entropy=entropy,
            budget=budget,
            configuration=configuration,
            on_crypto=on_crypto,
            on_token=on_token,
            trace=trace,
        )
        state.clock_us = clock_us
        skip_numbers(state, 1 + entropy(1)[0] % limits.MAX_RESUME_SKIP, entropy)
        state.numbers.owner_first_number = state.numbers.next_number
        if other_host:
            connection._paths.on_other_host(clock_us)
            connection._congestion.on_other_host(clock_us)
        connection._rearm(clock_us)
        if trace is not None:
            qlog.log_owner(trace, "resumed", state)
        return connection

    def start(self) -> None:
        """Right after promotion: issue connection IDs to the peer."""
        self._check()
        self._ids.replenish()

    # --- getters that need a part; the others are in `view` ------------------------------------

    @property
    def cutover_pending(self) -> bool:
        """True until the peer has retired every ID that an earlier owner issued."""
        return self._ids.cutover_pending

    def connection_ids(self) -> list[bytes]:
        """All IDs by which packets find this connection."""
        self._check()
        return self._ids.local_cids()

    def issued_ids(self) -> list[bytes]:
        """Those of them that this owner or an earlier one issued: not the client's first choice."""
        self._check()
        return self._ids.issued_cids()

    def why_awake(self, now: float) -> str:
        """Why the connection cannot be put to sleep: a code, empty when it can."""
        self._check()
        self._events.waiting()
        return resting.why_awake(self._state, self._sender, self._timers, self._advance(now))

    def quiet_s(self, now: float) -> float:
        """Seconds since anything was received, or sent that asks for an answer."""
        self._check()
        return resting.quiet_us(self._state, self._advance(now)) / 1e6

    # --- what happened --------------------------------------------------------------------------

    def receive_datagram(
        self, data: bytes, addr: Address, now: float, *, local: Address = (), ecn: int = 0
    ) -> None:
        """Process one datagram that came from `addr`."""
        self.receive_datagrams([data], addr, now, local=local, ecn=ecn)

    def receive_datagrams(
        self,
        datagrams: Sequence[bytes],
        addr: Address,
        now: float,
        *,
        local: Address = (),
        ecn: int = 0,
    ) -> None:
        """Process datagrams that came from `addr` in this order, as one batch."""
        self._check()
        now_us = self._advance(now)
        state = self._state
        if state.closed:
            return
        if state.closing is not None:
            self._closing.on_packets(len(datagrams))
            return
        if len(self._events) > limits.MAX_QUEUED_EVENTS:
            # Judged before a batch, when the application has had its turn: a batch of small frames
            # may bring more than that.
            self._closing.close(f.INTERNAL_ERROR, 0, "the application does not take its events")
            return
        try:
            self._receiver.receive(datagrams, addr, local, ecn, now_us)
        except TransportError as error:
            self._closing.close(error.error_code, error.frame_type, error.reason)
        except SecondSenderError as error:
            # On doubt about ownership stay silent: a CONNECTION_CLOSE would use a number, too.
            self._closing.end(f.INTERNAL_ERROR, NONE, str(error))
        self._note_memory()
        if len(state.recovery.sent) > 2 * limits.MAX_SENT_RUNS:
            self._closing.close(f.INTERNAL_ERROR, 0, "too many packets are not acknowledged")

    def handle_timer(self, now: float) -> None:
        """Call when `get_timer`'s time has come; earlier or later does no harm."""
        self._check()
        now_us = self._advance(now)
        state = self._state
        if state.closed:
            return
        if state.closing is not None:
            self._closing.on_timer(now_us)
            return
        if self._timers.is_idle(now_us):
            self._closing.end(f.INTERNAL_ERROR, f.PADDING, "Idle timeout")
            return
        if self._timers.wants_keep_alive(now_us):
            state.recovery.probes_due = max(1, state.recovery.probes_due)
        self._recovery.on_timer(now_us)
        self._streams.on_timer(now_us)
        if self._paths.on_timer(now_us):
            self._recovery.on_path_change(now_us)
        self._ids.drop_alias(now_us)

    def on_refused(self, train: Train, now: float) -> None:
        """The interface takes no datagrams of this train's size, so none of them was sent: give it
        the time at which it was made. What they held is due again, in smaller ones."""
        self._check()
        for path in self._state.paths:
            if (path.remote, path.local) == (train.remote, train.local):
                MtuSearch(path).on_refused(train.segment_bytes)
                self._recovery.on_refused(path, self._advance(now))

    # --- commands -------------------------------------------------------------------------------

    def speak_first(self) -> None:
        """Have something to send even when nothing waits: a client with nothing outstanding sends
        nothing, so a new owner must let it know that the connection lives."""
        self._check()
        if _ANONYMOUS_PING not in self._state.pings_due:
            self._state.pings_due.append(_ANONYMOUS_PING)

    def let_go(self) -> None:
        """Nobody will drive this object: it holds nothing of what connections share."""
        self._check()
        self._spent = True
        self._memory.close()

    @property
    def budget(self) -> MemoryBudget:
        """What the connections of the process may hold together."""
        return self._memory.budget

    def note_kept(self, size_bytes: int) -> None:
        """So many bytes that events have brought wait for the program somewhere else, and were not
        withheld by `pause_reading`: they count among what the connection holds."""
        self._check()
        self._memory.keep(size_bytes)

    def restore_credit(self) -> None:
        """The budget says that this connection may give its peer credit again: send afterwards."""
        self._check()
        if self._state.closing is None:
            self._streams.restore_credit(self._state.clock_us)

    def send_new_token(self, token: bytes) -> None:
        """Give the client an address validation token for its next connection (§8.1.3)."""
        self._check()
        state = self._state
        state.tokens_due.append(state.tokens_first + len(state.tokens))
        state.tokens.append(token)

    def send_crypto(self, data: bytes) -> None:
        """Send post-handshake TLS messages, such as session tickets."""
        self._check()
        self._crypto.write(data)

    def prepare(self) -> None:
        """Make what the first packet would have to wait for, while there is time."""
        self._check()
        self._protection.prepare()

    def prepare_to_part(self) -> None:
        """A handoff is near: until `stay`, keep room for three short trains in the window, two to
        part with and one for the next owner to begin with."""
        self._check()
        self._sender.keep_for_quick_trains = _PARTING_TRAINS + 1

    def parting_trains(self, now: float) -> list[list[Train]]:
        """What to send while the connection changes hands, by and by: the client lives on it."""
        parting: list[list[Train]] = []
        for kept in range(_PARTING_TRAINS, 0, -1):
            self._sender.keep_for_quick_trains = min(kept, self._sender.keep_for_quick_trains)
            parting.append(self.trains_to_send(now, quick=True))
        return [trains for trains in parting if trains]

    def stay(self) -> None:
        """There is no handoff after all."""
        self._check()
        self._sender.keep_for_quick_trains = 0

    def rearm(self, now: float, *, missed_us: int = 0) -> None:
        """The wait between `resume` and ownership was transit, too: what fell due in it is armed
        again. Nothing may have been sent or received since `resume`. `missed_us`: what more of
        transit has become known since."""
        self._check()
        if missed_us < 0:
            raise CallerError(f"connection time never goes back, got {missed_us} µs")
        self._origin_s -= missed_us / 1e6
        self._rearm(self._advance(now))

    def begin_cutover(self) -> None:
        """Issue fresh IDs and ask the peer to retire all earlier ones (RFC 9000 §5.1.2).

        Raises RefusedError (`cutover_pending`) while an earlier request is not fulfilled.
        """
        self._check()
        self._ids.begin_cutover()

    def freeze(self, now: float) -> ConnectionState:
        """Give up the connection: its state, for a snapshot; this object is spent.

        Raises RefusedError (`closing`) when there is no open connection to move.
        """
        self._check()
        if self._state.closing is not None or self._state.closed:
            raise RefusedError(
                "the connection is closing; there is nothing to move", code="closing"
            )
        self._advance(now)
        self._streams.compact()
        return self._give_up("frozen")

    def sleep(self, now: float) -> resting.Resting:
        """Give up the connection to have it again in this process, as a `Connection` of what this
        returns: nothing changes hands. RefusedError, its code what `why_awake` says."""
        why = self.why_awake(now)
        if why:
            raise RefusedError("the connection has something to do: let it", code=why)
        wake_at_s = self.get_timer()
        return resting.Resting(self._give_up("asleep"), self._origin_s, wake_at_s)

    # --- what to do next ------------------------------------------------------------------------

    def trains_to_send(self, now: float, *, quick: bool = False) -> list[Train]:
        """What to send now, in trains for segmentation offload; if it must be `quick`, one short
        train at most. Call `get_timer` afterwards."""
        self._check()
        now_us = self._advance(now)
        state = self._state
        if state.closing is not None or state.closed:
            self._note_memory()
        if state.closed:
            return []
        try:
            if state.closing is not None:
                return self._send_close(now_us)
            if self._protection.must_update and self._protection.can_update(now_us):
                self._protection.update(now_us, self._recovery.pto_us())
            trains = self._sender.build(now_us, quick=quick)
            self._note_memory()
            return trains
        except TransportError as error:
            # RFC 9001 §6.6: the key is worn out and could not be updated.
            self._closing.close(error.error_code, error.frame_type, error.reason)
            state.close_due = True  # when it was the close that found out
            return self._send_close(now_us)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """All that may be sent now, one datagram after another, with its destination."""
        datagrams: list[tuple[bytes, Address]] = []
        while trains := self.trains_to_send(now):
            datagrams += [(data, train.remote) for train in trains for data in train.datagrams()]
            if not self.has_more:
                break
        return datagrams

    @property
    def has_more(self) -> bool:
        """After `trains_to_send`: that was a turn's share, and there is more to send now."""
        return self._sender.has_more

    def get_timer(self) -> float | None:
        """When to call `handle_timer` and then send; None: never. At or before now: at once."""
        self._check()
        at_us = self._timers.next_us()
        return None if at_us == NEVER else self._origin_s + at_us / 1e6

    # --- helpers, in reading order --------------------------------------------------------------

    def _give_up(self, event: str) -> ConnectionState:
        if self._quic_logger is not None:
            qlog.log_owner(self._quic_logger, event, self._state)
        self._events.waiting()
        self._protection.compact()
        self._spent = True
        self._memory.close()
        return self._state

    def _note_memory(self) -> None:
        state = self._state
        if state.closing is None and not state.closed:
            self._memory.note(self._streams.held_bytes(), state.flow.window_bytes)
        elif self._memory.is_open:
            # Nothing more is sent or read of it, and the end may take seconds.
            self._streams.release()
            self._memory.close()

    def _advance(self, now: float) -> int:
        """Connection time of `now`; it never goes backwards."""
        state = self._state
        now_us = round((now - self._origin_s) * 1e6)
        if now_us <= state.clock_us:
            return state.clock_us
        state.clock_us = now_us
        return now_us

    def _rearm(self, now_us: int) -> None:
        self._recovery.on_resumed(now_us)
        self._congestion.on_resumed(now_us)
        self._paths.rearm(now_us)

    def _send_close(self, now_us: int) -> list[Train]:
        """CONNECTION_CLOSE, if it is due."""
        if not self._closing.take_due(now_us, self._recovery.pto_us()):
            return []
        return self._sender.close_datagram(now_us)


def _drop_crypto(_data: bytes) -> None:
    """A client whose TLS stayed with an earlier owner has no use for session tickets."""


def _refuse_crypto(_data: bytes) -> None:
    """A client has nothing to say in TLS after the handshake (RFC 9001 §6, §4.4)."""
    raise TransportError(0x010A, "unexpected TLS message after the handshake", f.CRYPTO)
