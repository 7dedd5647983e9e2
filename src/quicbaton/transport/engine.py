"""The reactions of a connection's parts to a datagram, a deadline and a turn to send.

The engine builds the parts over the state and is the only one that knows all of them; below it each
part knows those that it needs. It works in connection time. The owner, the owner's clock and the
calls that a program may make are the business of `Connection`, which holds one engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton import limits
from quicbaton.errors import SecondSenderError, TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.budget import Account
from quicbaton.transport.closing import Closing
from quicbaton.transport.delivery import Dispatcher
from quicbaton.transport.event_queue import EventQueue
from quicbaton.transport.headroom import Gate
from quicbaton.transport.loss.algorithms import controller
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.packets.acks import ReceivedNumbers
from quicbaton.transport.packets.protection import PacketProtection
from quicbaton.transport.paths.ids import ConnectionIds, IdIssuer
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.paths.paths import Paths
from quicbaton.transport.receiver import Receiver
from quicbaton.transport.sender import Sender
from quicbaton.transport.state import NONE, Address, ConnectionState
from quicbaton.transport.streams.crypto import CryptoStream
from quicbaton.transport.streams.streams import Streams
from quicbaton.transport.timers import Timers
from quicbaton.transport.train import Train


class Engine:
    """Drives the parts of one connection; `now_us` is connection time by the state's clock. The
    parts themselves are public: most calls of a program concern one of them."""

    def __init__(
        self,
        state: ConnectionState,
        memory: Account,
        *,
        issuer: IdIssuer | None,
        entropy: Callable[[int], bytes],
        on_crypto: Callable[[bytes], None] | None,
        on_token: Callable[[bytes], None],
        trace: QuicLoggerTrace | None,
    ) -> None:
        self._state = state
        self._memory = memory
        self.events = EventQueue(state.events)
        self.closing = Closing(state, self.events)
        self.protection = PacketProtection(state.protection, grease=state.remote.grease_quic_bit)
        self._congestion = controller(state.congestion)
        self.streams = Streams(state, memory, self.events)
        self.ids = ConnectionIds(
            state.ids, issuer, self.events, state.local.active_connection_id_limit
        )
        self._paths = Paths(state, self.ids, self.closing, entropy)
        self.crypto = CryptoStream(
            state.crypto, on_crypto or (_drop_crypto if state.is_client else _refuse_crypto)
        )
        received = ReceivedNumbers(state.numbers, state.local)
        dispatcher = Dispatcher(
            state,
            self.events,
            received,
            self.streams,
            self.ids,
            self.crypto,
            lambda: state.clock_us,
        )
        self.recovery = Recovery(state, self._congestion, dispatcher, trace)
        self._receiver = Receiver(
            state,
            self.events,
            self.closing,
            self.protection,
            received,
            self.recovery,
            self.streams,
            self.ids,
            self._paths,
            self.crypto,
            on_token,
            trace,
        )
        self.gate = Gate(state, self._congestion, self._paths, memory)
        self.sender = Sender(
            state,
            self.protection,
            received,
            self.recovery,
            self._congestion,
            self.streams,
            self.ids,
            self._paths,
            self.crypto,
            entropy,
            self.gate,
            trace,
        )
        self.timers = Timers(state, self.recovery, self.streams, self._paths, self.sender)
        self._note_memory()

    # --- what happened --------------------------------------------------------------------------

    def receive(
        self, datagrams: Sequence[bytes], addr: Address, local: Address, ecn: int, now_us: int
    ) -> None:
        """Process datagrams that came from `addr` in this order, as one batch."""
        state = self._state
        if state.closed:
            return
        if state.closing is not None:
            self.closing.on_packets(len(datagrams))
            return
        if len(self.events) > limits.MAX_QUEUED_EVENTS:
            # Judged before a batch, when the application has had its turn: a batch of small frames
            # may bring more than that.
            self.closing.close(f.INTERNAL_ERROR, 0, "the application does not take its events")
            return
        try:
            self._receiver.receive(datagrams, addr, local, ecn, now_us)
        except TransportError as error:
            self.closing.close(error.error_code, error.frame_type, error.reason)
        except SecondSenderError as error:
            # On doubt about ownership stay silent: a CONNECTION_CLOSE would use a number, too.
            self.closing.end(f.INTERNAL_ERROR, NONE, str(error))
        self._note_memory()
        if len(state.recovery.sent) > 2 * limits.MAX_SENT_RUNS:
            self.closing.close(f.INTERNAL_ERROR, 0, "too many packets are not acknowledged")

    def on_timer(self, now_us: int) -> None:
        """A deadline may have passed."""
        state = self._state
        if state.closed:
            return
        if state.closing is not None:
            self.closing.on_timer(now_us)
            return
        if self.timers.is_idle(now_us):
            self.closing.end(f.INTERNAL_ERROR, f.PADDING, "Idle timeout")
            return
        if self.timers.wants_keep_alive(now_us):
            state.recovery.probes_due = max(1, state.recovery.probes_due)
        self.recovery.on_timer(now_us)
        self.streams.on_timer(now_us)
        if self._paths.on_timer(now_us):
            self.recovery.on_path_change(now_us)
        self.ids.drop_alias(now_us)

    def on_refused(self, train: Train, now_us: int) -> None:
        """The interface takes no datagrams of this train's size: their contents are due again."""
        for path in self._state.paths:
            if (path.remote, path.local) == (train.remote, train.local):
                MtuSearch(path).on_refused(train.segment_bytes)
                self.recovery.on_refused(path, now_us)

    def on_resumed(self, now_us: int) -> None:
        """No owner could send or receive for a while: deadlines that passed in it are armed
        again."""
        self.recovery.on_resumed(now_us)
        self._congestion.on_resumed(now_us)
        self._paths.rearm(now_us)

    def on_other_host(self, now_us: int) -> None:
        """Datagrams take another way from here on. Their size is searched for anew (RFC 9000
        §14.3), and the window is spread over a round trip."""
        self._paths.on_other_host(now_us)
        self._congestion.on_other_host(now_us)

    # --- what to send ---------------------------------------------------------------------------

    def build(self, now_us: int, *, quick: bool, late_us: int) -> list[Train]:
        """A turn's share of trains; one short one at most if it must be `quick`. Timers come
        `late_us` too late."""
        state = self._state
        if state.closing is not None or state.closed:
            self._note_memory()
        if state.closed:
            return []
        try:
            if state.closing is not None:
                return self._build_close(now_us)
            if self.protection.must_update and self.protection.can_update(now_us):
                self.update_keys(now_us)
            trains = self.sender.build(now_us, quick=quick, late_us=late_us)
            self._note_memory()
            return trains
        except TransportError as error:
            # RFC 9001 §6.6: the key is worn out and could not be updated.
            self.closing.close(error.error_code, error.frame_type, error.reason)
            state.close_due = True  # when it was the close that found out
            return self._build_close(now_us)

    def update_keys(self, now_us: int) -> None:
        """Start a key update (RFC 9001 §6)."""
        self.protection.update(now_us, self.recovery.pto_us())

    # --- helpers, in reading order --------------------------------------------------------------

    def _note_memory(self) -> None:
        state = self._state
        if state.closing is None and not state.closed:
            self._memory.note(self.streams.held_bytes(), state.flow.window_bytes)
        elif self._memory.is_open:
            # Nothing more is sent or read of it, and the end may take seconds.
            self.streams.release()
            self._memory.close()

    def _build_close(self, now_us: int) -> list[Train]:
        """CONNECTION_CLOSE, if it is due."""
        if not self.closing.take_due(now_us, self.recovery.pto_us()):
            return []
        return self.sender.close_datagram(now_us)


def _drop_crypto(_data: bytes) -> None:
    """A client whose TLS stayed with an earlier owner has no use for session tickets."""


def _refuse_crypto(_data: bytes) -> None:
    """A client has nothing to say in TLS after the handshake (RFC 9001 §6, §4.4)."""
    raise TransportError(0x010A, "unexpected TLS message after the handshake", f.CRYPTO)
