"""A confirmed QUIC connection as a sans-IO object over a `ConnectionState`.

Theory of operation: the state is data, and everything else here is derived from it, in the
constructor and whenever the connection has dozed: then only the state's bytes were left. Users of
the transport see only this class. It adds three things to the `Engine` that it holds: names and
event classes of aioquic's `QuicConnection`, so that aioquic's HTTP/3 and programs written for
aioquic run on it; the caller's clock, `now`, monotonic, in seconds (inside, time is connection
time; see `state`); and its own end as an object: a connection that was frozen for a handoff, or put
to sleep, is spent, and every further call raises GivenAwayError.

Methods come in groups by their callers: getters; calls of programs; calls of the runtime when
something happened (handle_* and receive_*); the runtime's questions about what to do next
(`trains_to_send`, `get_timer`); and how the connection changes hands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aioquic.quic import events as aioquic_events
from aioquic.quic.logger import QuicLoggerTrace

from quicbaton import limits
from quicbaton.errors import CallerError, GivenAwayError, RefusedError
from quicbaton.reasons import Reason
from quicbaton.transport import datagrams, qlog, resting
from quicbaton.transport import frames as f
from quicbaton.transport.budget import MemoryBudget
from quicbaton.transport.engine import Engine
from quicbaton.transport.events import TO_AIOQUIC
from quicbaton.transport.headroom import UNTRIED, Headroom, LimitedBy
from quicbaton.transport.log import ConnectionLog
from quicbaton.transport.packets.protection import compact
from quicbaton.transport.paths.ids import IdIssuer, cutover_is_pending, local_cids
from quicbaton.transport.paths.path import validated_path
from quicbaton.transport.sender import skip_numbers
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Address,
    ConnectionState,
    Event,
    Stream,
    StreamDataEvent,
)
from quicbaton.transport.streams import table
from quicbaton.transport.streams.send_half import is_writable
from quicbaton.transport.train import Train

#: What a program may write.
Buffer = bytes | bytearray | memoryview

#: Where `next_ping_uid` begins: programs that choose uids by themselves begin at the other end.
FIRST_PING_UID: Final = 1 << 32
#: A PING whose acknowledgement is not reported: its record's uid + 1 is 0.
_ANONYMOUS_PING: Final = -1
#: One when the baton goes, one when READY has come.
_PARTING_TRAINS: Final = 2


_BULK_LIMITS: Final = frozenset({LimitedBy.CONGESTION, LimitedBy.PACING, LimitedBy.MEMORY})


class Connection:
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
        """`budget` is the limit for all connections of the process together; without one this
        connection has one of its own."""
        #: One of these two is None: the connection dozes, or it does not.
        self._known: ConnectionState | None = state
        self._dozing: resting.Dozing | None = None
        self._configuration = configuration
        self._origin_s = origin_s
        self._spent = False
        self._name = state.name
        self._original_id = state.original_id
        # HTTP/3 of aioquic looks for these two names.
        self._quic_logger = trace
        self._remote_max_datagram_frame_size = state.remote.max_datagram_frame_bytes or None
        self._memory = (budget or MemoryBudget()).open(state.name)
        self._issuer = issuer
        self._entropy = entropy
        self._on_crypto = on_crypto
        self._on_token = on_token
        #: None while the connection dozes, and once it is spent.
        self._engine: Engine | None = None
        #: Counted by earlier engines and not taken.
        self._packets_lost = 0
        self._build()

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

        `transit_us` is how long the connection was frozen, as measured by the new owner: its time
        moves on by that. A random run of packet numbers is skipped (RFC 9000 §21.4), so an ACK for
        one of them proves that the old owner goes on sending.

        `other_host`: datagrams take another way from here on. Their size is searched for anew (RFC
        9000 §14.3), and the window is spread over a round trip. No `issuer`: the peer gets no more
        connection IDs, since datagrams for them would not come here.
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
            connection._awake().on_other_host(clock_us)
        connection._awake().on_resumed(clock_us)
        if trace is not None:
            qlog.log_owner(trace, "resumed", state)
        return connection

    def start(self) -> None:
        """Right after promotion: issue connection IDs to the peer."""
        self._awake().ids.replenish()

    def __repr__(self) -> str:
        state = self._seen
        role = "client" if state.is_client else "server"
        return (
            f"<Connection {state.name.hex()} {self._phase()} {role} peer={self.peer_address} "
            f"streams={len(state.streams)} in_flight={state.congestion.in_flight_bytes}>"
        )

    # --- getters --------------------------------------------------------------------------------

    @property
    def configuration(self) -> Any:
        """The configuration object given by the runtime; aioquic's HTTP/3 reads `is_client`."""
        return self._configuration if self._configuration is not None else self._seen

    @property
    def _logger(self) -> ConnectionLog:
        # Made when asked for: most programs never do, and it would cost each connection memory.
        return ConnectionLog(self._original_id)

    @property
    def is_client(self) -> bool:
        return self._seen.is_client

    @property
    def original_destination_connection_id(self) -> bytes:
        """The client's first destination ID: the connection's name in traces, under every owner."""
        return self._original_id

    @property
    def name(self) -> bytes:
        """Our first connection ID: the connection's name in commands and handoffs."""
        return self._name

    @property
    def trace(self) -> QuicLoggerTrace | None:
        """The qlog trace that this owner writes into."""
        return self._quic_logger

    @property
    def closed(self) -> bool:
        """True when nothing will be sent or accepted any more."""
        state = self._known  # one that dozes is open
        return state is not None and state.closed

    @property
    def is_given_away(self) -> bool:
        """True once it was frozen for a handoff, or put to sleep: its state has moved on."""
        return self._spent

    @property
    def is_closing(self) -> bool:
        """True from a close, ours or the peer's, on."""
        state = self._known
        return state is not None and (state.closing is not None or state.closed)

    @property
    def alpn(self) -> str:
        return self._seen.alpn

    @property
    def cipher_suite(self) -> int:
        """Its number (RFC 8446 §B.4)."""
        return self._seen.protection.cipher

    @property
    def peer_certificates(self) -> list[bytes]:
        """The peer's certificate (DER), proved in the handshake, and those that it sent along;
        empty for a client that has none, or was not asked. Shared, not to be changed."""
        return self._seen.peer_certificates

    @property
    def server_name(self) -> str:
        return self._seen.server_name

    @property
    def peer_address(self) -> Address:
        """The peer's address, as a challenge or the handshake has proved it (RFC 9000 §8). Packets
        may come from another one, and go there, before that is proved, too."""
        return validated_path(self._seen).remote

    @property
    def local_address(self) -> Address:
        """Ours, as the client at `peer_address` knows it; empty where the socket has only one."""
        dozing = self._dozing
        return dozing.local_address if dozing is not None else validated_path(self._state).local

    @property
    def sends_to(self) -> Address:
        """The address to which packets go now. It may be forged: do not tell programs."""
        return self._seen.paths[0].remote

    @property
    def datagrams_dropped(self) -> int:
        """DATAGRAMs that were accepted and never sent: too many waited, or the path's MTU
        shrank."""
        return self._seen.datagrams_dropped

    @property
    def bytes_in_flight(self) -> int:
        return self._seen.congestion.in_flight_bytes

    @property
    def sends_in_bulk(self) -> bool:
        """Whether stream data waits behind many datagrams that are on their way: for ACKs to make
        room, or for the pacer."""
        if self._engine is None:
            return False
        congestion = self._state.congestion
        return (
            self._engine.sender.headroom.limited_by in _BULK_LIMITS
            and congestion.in_flight_bytes >= limits.BULK_DATAGRAMS * congestion.datagram_bytes
        )

    @property
    def has_rtt(self) -> bool:
        """Whether a round trip was ever measured."""
        return (self._dozing or self._state.recovery).has_rtt

    def take_packets_lost(self) -> int:
        """Packets declared lost (RFC 9002 §6.1) since the last call, MTU probes included. A
        connection that is spent answers, too: the count does not move."""
        self._gather_packets_lost()
        lost, self._packets_lost = self._packets_lost, 0
        return lost

    @property
    def smoothed_rtt_s(self) -> float:
        return (self._dozing or self._state.recovery).smoothed_rtt_us / 1e6

    @property
    def clock_us(self) -> int:
        """Connection time of the newest call, µs since the handshake began."""
        return (self._dozing or self._state).clock_us

    @property
    def age_s(self) -> float:
        """Seconds of connection time since the handshake began."""
        return self.clock_us / 1e6

    @property
    def stream_count(self) -> int:
        return len(self._seen.streams)

    @property
    def has_open_requests(self) -> bool:
        """True while a bidirectional stream is not over for both sides."""
        return any(not stream_id & 2 for stream_id in self._seen.streams)

    def next_peer_stream_id(self) -> int:
        """The lowest ID of a bidirectional stream that the peer has not opened yet."""
        self._check()
        state = self._seen
        return 4 * state.flow.peer_streams_seen[0] + state.is_client

    def get_peer_address(self) -> Address | None:
        """As `peer_address`: never one that is not proved."""
        self._check()
        return self.peer_address

    @property
    def stream_ids(self) -> list[int]:
        """Streams that the transport has not finished with."""
        return list(self._seen.streams)

    def stream_is_finished(self, stream_id: int) -> bool:
        """True once both halves are over and the stream is forgotten; HTTP/3 forgets it then."""
        self._check()
        return table.is_finished(self._seen, stream_id)

    def is_congested(self, stream_id: int) -> bool:
        """True while a stream's buffer is full; StreamWritable comes when there is room again."""
        self._check()
        stream = self._seen.streams.get(stream_id)
        return stream is not None and stream.send is not None and stream.send.congested

    def can_send(self, stream_id: int) -> bool:
        """True when the application may still write to the stream."""
        self._check()
        stream = self._seen.streams.get(stream_id)
        half = stream.send if stream is not None else None
        return half is not None and is_writable(half)

    def reset_code(self, stream_id: int) -> int | None:
        """The code with which our direction of a stream was reset, by the program or in answer to
        STOP_SENDING (RFC 9000 §3.5); None: it was not."""
        self._check()
        stream = self._seen.streams.get(stream_id)
        half = stream.send if stream is not None else None
        return None if half is None or half.reset_code == NONE else half.reset_code

    def buffered_bytes(self) -> int:
        """Stream bytes that a snapshot would carry: unacknowledged, unsent and undelivered."""
        self._check()
        return 0 if self._engine is None else self._engine.streams.carried_bytes()

    @property
    def streams(self) -> Mapping[int, Stream]:
        """The buffers of streams, by ID. To be read at once: they change with the connection."""
        self._check()
        return self._seen.streams

    @property
    def cutover_pending(self) -> bool:
        """True until the peer has retired every ID that an earlier owner issued."""
        return self._dozing is None and cutover_is_pending(self._state.ids)

    def connection_ids(self) -> list[bytes]:
        """All IDs by which packets find this connection."""
        self._check()
        return local_cids(self._seen.ids)

    def issued_ids(self) -> list[bytes]:
        """Those of them that this owner or an earlier one issued: not the client's first choice."""
        self._check()
        return [local.cid for local in self._seen.ids.local]

    def why_awake(self, now: float) -> Reason | None:
        """The reason why the connection cannot be put to sleep; None when it can."""
        self._check()
        if self._dozing is not None:
            return resting.timer_reason(self._dozing.until_us, self._time_us(now))
        engine = self._awake()
        engine.events.waiting()
        return resting.why_awake(self._state, engine.sender, engine.timers, self._advance(now))

    def quiet_s(self, now: float) -> float:
        """Seconds since anything was received, or sent that asks for an answer."""
        self._check()
        if self._dozing is not None:
            return (self._time_us(now) - self._dozing.quiet_from_us) / 1e6
        return resting.quiet_us(self._state, self._advance(now)) / 1e6

    # --- programs: streams ----------------------------------------------------------------------

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        return self._awake().streams.next_id(is_unidirectional)

    def send_stream_data(self, stream_id: int, data: Buffer, end_stream: bool = False) -> None:
        """Queue bytes on a stream; zero copy where `data` is `bytes`, since nobody can change
        them."""
        engine = self._engine or self._awake()
        state = self._known or self._state
        if state.closing is None:
            known = data if isinstance(data, bytes) else bytes(data)
            engine.streams.write(stream_id, known, end_stream)

    def send_buffer_bytes(self, stream_id: int) -> int:
        """Bytes written to a stream that were never sent yet."""
        return self._awake().streams.buffered_bytes(stream_id)

    def send_room_bytes(self, stream_id: int) -> int:
        """Bytes that fill the buffer of a stream that is not congested."""
        return self._awake().streams.send_room_bytes(stream_id)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Abandon what we send on a stream (RFC 9000 §19.4)."""
        self._awake().streams.reset(stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """Ask the peer to stop sending on a stream (RFC 9000 §19.5)."""
        self._awake().streams.stop(stream_id, error_code)

    def drain_stream(self, stream_id: int, error_code: int) -> None:
        """Drop the peer's further bytes on a stream, and ask it to stop only later: when it has
        sent `limits.MAX_DRAINED_BYTES` more, or nothing for `limits.DRAIN_IDLE_S` after everything
        that we sent on the stream has arrived."""
        self._awake().streams.drain(stream_id, error_code)

    def pause_reading(self, stream_id: int) -> None:
        """Withhold flow-control credit: the peer may fill its window and then must wait."""
        self._awake().streams.pause_reading(stream_id)

    def resume_reading(self, stream_id: int) -> None:
        self._awake().streams.resume_reading(stream_id, self._state.clock_us)

    def set_priority(self, stream_id: int, urgency: int, incremental: bool) -> None:
        """Say when the stream is served among those that have something to send (RFC 9218 §10).

        Lower `urgency` goes first: 0 to 7, and `turns.CONTROL_URGENCY` before all of them. Of
        equals, `incremental` streams share, the others are served one after the other in the order
        of their IDs. By default a stream has urgency 3 and is incremental. No effect on one that
        has sent everything; StreamStateError where sending is not possible.
        """
        engine = self._engine or self._awake()
        engine.streams.set_priority(stream_id, urgency, incremental)

    # --- programs: the connection ---------------------------------------------------------------

    def send_datagram_frame(self, data: Buffer) -> None:
        """Queue an unreliable DATAGRAM (RFC 9221); the oldest goes when too many wait.

        Raises CallerError (`datagram_too_large`) for more than `max_datagram_bytes`.
        """
        self._awake()
        datagrams.queue(self._state, bytes(data))

    @property
    def max_datagram_bytes(self) -> int:
        """Bytes of the largest DATAGRAM that can be sent now: one that the peer takes and a packet
        on its path carries. It changes with the path, in a handoff to another host too."""
        self._check()
        return datagrams.largest_payload(self._seen)

    def send_ping(self, uid: int) -> None:
        """Send a PING; its acknowledgement comes back as PingAcknowledged with `uid`."""
        self._awake()
        self._state.pings_due.append(uid)

    def next_ping_uid(self) -> int:
        """A uid for `send_ping` that no owner of this connection has given out before."""
        self._awake()
        state = self._state
        state.next_ping_uid += 1
        return state.next_ping_uid - 1

    def request_key_update(self) -> None:
        """Start a key update (RFC 9001 §6); raises CallerError where §6.1 forbids it as yet."""
        engine = self._awake()
        state = self._state
        if not engine.protection.can_update(state.clock_us):
            raise CallerError(
                "a key update must wait until the peer has acknowledged the present keys",
                code=Reason.KEY_UPDATE_TOO_SOON,
            )
        engine.update_keys(state.clock_us)

    def change_connection_id(self) -> None:
        """Use another of the peer's connection IDs on the active path, if there is one."""
        self._awake().ids.change_peer_id(self._state.paths[0].serial)

    def set_keep_alive(self, interval_s: float) -> None:
        """Send a PING after `interval_s` without traffic (RFC 9000 §10.1.2); 0 ends that."""
        self._awake()
        if not 0 <= interval_s * 1e6 < 1 << 62:
            raise CallerError(f"a keep-alive interval is from 0 to 2^62 µs, got {interval_s} s")
        self._state.keep_alive_us = round(interval_s * 1e6)

    def close(
        self, error_code: int = f.NO_ERROR, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """Close at once (RFC 9000 §10.2): `frame_type` None means that the application closes."""
        self._awake().closing.close(
            error_code, NONE if frame_type is None else frame_type, reason_phrase
        )

    def next_event(self) -> aioquic_events.QuicEvent | None:
        """The next event in aioquic's classes, or None. Taking it gives the peer new credit."""
        engine = self._engine or self._awake()
        event = engine.events.take()
        if type(event) is StreamDataEvent:
            state = self._known or self._state
            engine.streams.on_event_taken(event.stream_id, len(event.data), state.clock_us)
            return aioquic_events.StreamDataReceived(
                data=event.data, end_stream=event.end_stream, stream_id=event.stream_id
            )
        return None if event is None else TO_AIOQUIC[type(event)](event)

    @property
    def waiting_events(self) -> Sequence[Event]:
        """The events that `next_event` will return, to look at."""
        return self._awake().events.waiting()

    def next_event_but_requests(self) -> aioquic_events.QuicEvent | None:
        """As `next_event`, but without events of a client's bidirectional streams and of DATAGRAM
        frames, which are to wait."""
        events = self._awake().events
        return self.next_event() if events.put_first_but_requests() else None

    # --- the runtime: what happened -------------------------------------------------------------

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
        engine = self._engine or self._awake()  # a call less, here and wherever each turn comes by
        engine.receive(datagrams, addr, local, ecn, self._advance(now))

    def handle_timer(self, now: float) -> None:
        """Call when `get_timer`'s time has come; earlier or later does no harm."""
        self._awake().on_timer(self._advance(now))

    def is_loss_due(self, now: float) -> bool:
        """Whether packets are to be declared lost, or probes to be sent, unless an ACK has come
        that was not given to `receive_datagrams` yet: look for it before `handle_timer`."""
        deadline_us = self._awake().recovery.deadline_us()
        return NEVER < deadline_us <= self._advance(now)

    def hold_loss(self, now: float) -> bool:
        """Put that off for some milliseconds: there may be such an ACK, which was not read yet.
        Returns False, and does nothing, where it has been put off for too long."""
        return self._awake().recovery.hold(self._advance(now))

    def on_refused(self, train: Train, now: float) -> None:
        """The interface takes no datagrams of this train's size, so none of them was sent. `now` is
        the time at which it was made. Its contents are due again, in smaller ones."""
        self._awake().on_refused(train, self._advance(now))

    # --- the runtime: what to do next -----------------------------------------------------------

    def trains_to_send(
        self, now: float, *, quick: bool = False, late_s: float = 0.0
    ) -> list[Train]:
        """The trains to send now, for segmentation offload; one short train at most if it must be
        `quick`. Call `get_timer` afterwards. An owner whose timers come `late_s` too late gets
        that much more at once."""
        engine = self._engine or self._awake()
        return engine.build(self._advance(now), quick=quick, late_us=round(late_s * 1e6))

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """All that may be sent now, one datagram after another, with its destination."""
        datagrams: list[tuple[bytes, Address]] = []
        while trains := self.trains_to_send(now):
            datagrams += [(data, train.remote) for train in trains for data in train.datagrams()]
            if not self.has_more:
                break
        return datagrams

    @property
    def has_stream_data_due(self) -> bool:
        """Whether streams have something to send: if not, `quick` trains carry nothing."""
        return self._engine is not None and self._engine.streams.has_due()

    @property
    def has_more(self) -> bool:
        """After `trains_to_send`: that was a turn's share, and there is more to send now."""
        return (
            self._engine is not None and self._engine.sender.headroom.limited_by is LimitedBy.TURN
        )

    @property
    def headroom(self) -> Headroom:
        """After `trains_to_send`: how much more may be sent, and which limit stops the rest."""
        return UNTRIED if self._engine is None else self._engine.sender.headroom

    def get_timer(self) -> float | None:
        """When to call `handle_timer` and then send; None: never. At or before now: at once."""
        dozing = self._dozing
        at_us = self._awake().timers.next_us() if dozing is None else dozing.until_us
        return None if at_us == NEVER else self._origin_s + at_us / 1e6

    # --- the runtime: commands ------------------------------------------------------------------

    @property
    def budget(self) -> MemoryBudget:
        """The memory budget of all connections of the process."""
        return self._memory.budget

    def note_kept(self, size_bytes: int) -> None:
        """`size_bytes` from events wait for the program elsewhere, and were not withheld by
        `pause_reading`: count them among the bytes that the connection holds."""
        self._check()
        self._memory.keep(size_bytes)

    def restore_credit(self) -> None:
        """The budget says that this connection may give its peer credit again: send afterwards."""
        engine = self._awake()
        if self._state.closing is None:
            engine.streams.restore_credit(self._state.clock_us)

    def send_new_token(self, token: bytes) -> None:
        """Give the client an address validation token for its next connection (§8.1.3)."""
        self._awake()
        state = self._state
        state.tokens_due.append(state.tokens_first + len(state.tokens))
        state.tokens.append(token)

    def send_crypto(self, data: bytes) -> None:
        """Send post-handshake TLS messages, such as session tickets."""
        self._awake().crypto.write(data)

    # --- changing hands, and sleep --------------------------------------------------------------

    def prepare(self) -> None:
        """Derive the keys that the first packet needs, while there is time."""
        self._awake().protection.prepare()

    def prepare_to_part(self) -> None:
        """A handoff is near: until `stay`, keep room for three short trains in the window, two to
        send during the handoff and one for the next owner to begin with."""
        self._awake().gate.kept_trains = _PARTING_TRAINS + 1

    def parting_trains(self, now: float) -> list[list[Train]]:
        """The trains to send one by one while the connection changes hands: the client lives on
        them."""
        if self._dozing is not None:
            return []  # nothing waits
        parting: list[list[Train]] = []
        gate = self._awake().gate
        for kept in range(_PARTING_TRAINS, 0, -1):
            gate.kept_trains = min(kept, gate.kept_trains)
            parting.append(self.trains_to_send(now, quick=True))
        return [trains for trains in parting if trains]

    def stay(self) -> None:
        """There is no handoff after all."""
        if self._dozing is None:
            self._awake().gate.kept_trains = 0

    def freeze(self, now: float) -> ConnectionState:
        """Give up the connection: its state, for a snapshot; this object is spent.

        Raises RefusedError (`closed`) when there is no open connection to move.
        """
        self._check()
        if self.is_closing:
            raise RefusedError(
                "the connection is closing; there is nothing to move", code=Reason.CLOSED
            )
        if self._engine is not None:  # else it dozes, and its streams hold nothing
            self._engine.streams.compact()
        return self._give_up("frozen", now)

    def rearm(self, now: float, *, missed_us: int = 0) -> None:
        """The wait between `resume` and ownership was transit, too: deadlines that passed in it are
        armed again. Nothing may have been sent or received since `resume`. `missed_us`: the part of
        transit that has become known since."""
        engine = self._awake()
        if missed_us < 0:
            raise CallerError(f"connection time never goes back, got {missed_us} µs")
        self._origin_s -= missed_us / 1e6
        engine.on_resumed(self._advance(now))

    def speak_first(self) -> None:
        """Send a packet even when nothing waits: a client with nothing outstanding sends nothing,
        so a new owner must let it know that the connection lives."""
        self._awake()
        if _ANONYMOUS_PING not in self._state.pings_due:
            self._state.pings_due.append(_ANONYMOUS_PING)

    def begin_cutover(self) -> None:
        """Issue fresh IDs and ask the peer to retire all earlier ones (RFC 9000 §5.1.2).

        Raises RefusedError (`cutover_pending`) while an earlier request is not fulfilled.
        """
        self._awake().ids.begin_cutover()

    def sleep(self, now: float) -> resting.Resting:
        """Give up the connection to have it again in this process, as a `Connection` of the result:
        nothing changes hands. RefusedError; its code is the one of `why_awake`."""
        why = self.why_awake(now)
        if why is not None:
            raise RefusedError("the connection has something to do: let it", code=why)
        wake_at_s = self.get_timer()
        return resting.Resting(self._give_up("asleep", now), self._origin_s, wake_at_s)

    @property
    def dozes(self) -> bool:
        """Whether nothing but the bytes of its state is left."""
        return self._dozing is not None

    def doze(self, now: float) -> bool:
        """Keep only the bytes of the state, if there is nothing to do: ciphers, indexes and caches
        follow from it. The next call that needs them has all built again, in some 50 µs, and to the
        peer there is no difference. False: there is something to do."""
        if self._dozing is not None:
            return True
        engine = self._awake()
        if engine.gate.kept_trains or self.why_awake(now) is not None:
            return False
        self._gather_packets_lost()
        self._dozing = resting.Dozing(self._state, engine.timers.next_us())
        self._engine = self._known = None
        return True

    def let_go(self) -> None:
        """This object will not be used any more: it releases its share of what connections
        share."""
        self._check()
        self._end()

    # --- helpers --------------------------------------------------------------------------------

    def _phase(self) -> str:
        if self._spent:
            return "spent"
        if self.closed:
            return "closed"
        return "closing" if self.is_closing else "open"

    @property
    def _state(self) -> ConnectionState:
        """The state, unpacked if the connection dozed."""
        if self._dozing is not None:
            self._known, self._dozing = self._dozing.unpack(), None
        assert self._known is not None, "the state is in one of the two"
        return self._known

    @property
    def _seen(self) -> ConnectionState:
        """The state, only to be looked at: if the connection dozes it is a copy."""
        return self._state if self._dozing is None else self._dozing.look()

    def _awake(self) -> Engine:
        """The engine, built again if the connection dozed."""
        self._check()
        return self._engine or self._build()

    def _build(self) -> Engine:
        """Derive everything from the state."""
        self._engine = Engine(
            self._state,
            self._memory,
            issuer=self._issuer,
            entropy=self._entropy,
            on_crypto=self._on_crypto,
            on_token=self._on_token,
            trace=self._quic_logger,
        )
        return self._engine

    def _gather_packets_lost(self) -> None:
        if self._engine is not None:
            recovery = self._engine.recovery
            self._packets_lost += recovery.packets_lost
            recovery.packets_lost = 0

    def _check(self) -> None:
        if self._spent:
            raise GivenAwayError(
                "this connection was frozen for a handoff, or put to sleep: its state moved on"
            )

    def _give_up(self, event: str, now: float) -> ConnectionState:
        state = self._state
        self._advance(now)
        if self._quic_logger is not None:
            qlog.log_owner(self._quic_logger, event, state)
        if self._engine is not None:
            self._engine.events.waiting()
        compact(state.protection)
        self._end()
        return state

    def _end(self) -> None:
        """The state moves on, or nobody wants it: this object is spent."""
        self._gather_packets_lost()
        resting.look_away()
        self._known = self._state  # getters go on answering
        self._engine = None
        self._spent = True
        self._memory.close()

    def _time_us(self, now: float) -> int:
        return round((now - self._origin_s) * 1e6)

    def _advance(self, now: float) -> int:
        """Connection time of `now`; it never goes backwards."""
        state = self._known or self._state
        now_us = round((now - self._origin_s) * 1e6)
        if now_us <= state.clock_us:
            return state.clock_us
        state.clock_us = now_us
        return now_us
