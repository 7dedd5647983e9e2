"""What a program asks of its connection: streams, datagrams, events, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aioquic.quic import events as aioquic_events

from quicbaton.errors import CallerError
from quicbaton.transport import datagrams
from quicbaton.transport import frames as f
from quicbaton.transport.closing import Closing
from quicbaton.transport.event_queue import EventQueue
from quicbaton.transport.events import to_aioquic
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.packets.protection import PacketProtection
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.state import NONE, Event, StreamDataEvent
from quicbaton.transport.streams.streams import Streams
from quicbaton.transport.view import ConnectionView

#: Where `next_ping_uid` begins: programs that choose uids by themselves begin at the other end.
FIRST_PING_UID: Final = 1 << 32


class ApplicationSide(ConnectionView):
    """The methods of a `Connection` that programs call. It has the parts, these use them."""

    _events: EventQueue
    _closing: Closing
    _streams: Streams
    _ids: ConnectionIds
    _protection: PacketProtection
    _recovery: Recovery

    # --- streams --------------------------------------------------------------------------------

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        self._check()
        return self._streams.next_id(is_unidirectional)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Queue bytes on a stream; zero copy where `data` is `bytes`."""
        self._check()
        if self._state.closing is None:
            self._streams.write(stream_id, data, end_stream)

    def send_buffer_bytes(self, stream_id: int) -> int:
        """Bytes written to a stream that were never sent yet."""
        self._check()
        return self._streams.buffered_bytes(stream_id)

    def send_room_bytes(self, stream_id: int) -> int:
        """Bytes that fill the buffer of a stream that is not congested: it is with them."""
        self._check()
        return self._streams.send_room_bytes(stream_id)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Abandon what we send on a stream (RFC 9000 §19.4)."""
        self._check()
        self._streams.reset(stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """Ask the peer to stop sending on a stream (RFC 9000 §19.5)."""
        self._check()
        self._streams.stop(stream_id, error_code)

    def drain_stream(self, stream_id: int, error_code: int) -> None:
        """Drop what the peer still sends on a stream, and ask it to stop only later: when it has
        sent `limits.MAX_DRAINED_BYTES` more, or nothing for `limits.DRAIN_IDLE_S` after everything
        that we sent on the stream has arrived."""
        self._check()
        self._streams.drain(stream_id, error_code)

    def pause_reading(self, stream_id: int) -> None:
        """Withhold flow-control credit: the peer may fill its window and then must wait."""
        self._check()
        self._streams.pause_reading(stream_id)

    def resume_reading(self, stream_id: int) -> None:
        self._check()
        self._streams.resume_reading(stream_id, self._state.clock_us)

    def set_priority(self, stream_id: int, urgency: int, incremental: bool) -> None:
        """Say when the stream is served among those that have something to send (RFC 9218 §10).

        Lower `urgency` goes first: 0 to 7, and `turns.CONTROL_URGENCY` before all of them. Of
        equals, `incremental` streams share, the others are served one after the other in the order
        of their IDs. A stream has urgency 3 and is incremental until somebody says otherwise. No
        effect on one that has sent everything; StreamStateError where nothing can be sent.
        """
        self._check()
        self._streams.set_priority(stream_id, urgency, incremental)

    # --- the connection -------------------------------------------------------------------------

    def send_datagram_frame(self, data: bytes) -> None:
        """Queue an unreliable DATAGRAM (RFC 9221); the oldest goes when too many wait.

        Raises CallerError (`datagram_too_large`) for more than `max_datagram_bytes`.
        """
        largest = self.max_datagram_bytes
        if len(data) > largest or not self._state.remote.max_datagram_frame_bytes:
            raise CallerError(
                f"a DATAGRAM of {len(data)} bytes does not fit: the peer and the path take up to "
                f"{largest} now; ask max_datagram_bytes, which changes with the path",
                code="datagram_too_large",
            )
        datagrams.queue(self._state, data)

    @property
    def max_datagram_bytes(self) -> int:
        """Bytes of the largest DATAGRAM that can be sent now: what the peer takes and a packet on
        its path carries. It changes with the path, in a handoff to another host too."""
        self._check()
        return datagrams.largest_payload(self._state)

    def send_ping(self, uid: int) -> None:
        """Send a PING; its acknowledgement comes back as PingAcknowledged with `uid`."""
        self._check()
        self._state.pings_due.append(uid)

    def next_ping_uid(self) -> int:
        """A uid for `send_ping` that no owner of this connection has given out before."""
        self._check()
        state = self._state
        state.next_ping_uid += 1
        return state.next_ping_uid - 1

    def request_key_update(self) -> None:
        """Start a key update (RFC 9001 §6); raises CallerError where §6.1 forbids it as yet."""
        self._check()
        state = self._state
        if not self._protection.can_update(state.clock_us):
            raise CallerError(
                "a key update must wait until the peer has acknowledged the present keys",
                code="key_update_too_soon",
            )
        self._protection.update(state.clock_us, self._recovery.pto_us())

    def change_connection_id(self) -> None:
        """Use another of the peer's connection IDs on the active path, if there is one."""
        self._check()
        self._ids.change_peer_id(self._state.paths[0].serial)

    def set_keep_alive(self, interval_s: float) -> None:
        """Send a PING after so long without traffic (RFC 9000 §10.1.2); 0 ends that."""
        self._check()
        if interval_s < 0:
            raise CallerError(f"a keep-alive interval is not negative, got {interval_s}")
        self._state.keep_alive_us = round(interval_s * 1e6)

    def close(
        self, error_code: int = f.NO_ERROR, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """Close at once (RFC 9000 §10.2): `frame_type` None means that the application closes."""
        self._check()
        self._closing.close(error_code, NONE if frame_type is None else frame_type, reason_phrase)

    def next_event(self) -> aioquic_events.QuicEvent | None:
        """The next event in aioquic's classes, or None. Taking it gives the peer new credit."""
        self._check()
        return self._to_program(self._events.take())

    @property
    def waiting_events(self) -> Sequence[Event]:
        """What `next_event` is going to say, to look at."""
        self._check()
        return self._events.waiting()

    def next_event_but_requests(self) -> aioquic_events.QuicEvent | None:
        """As `next_event`, while what comes on a client's bidirectional streams, and in DATAGRAM
        frames, is to wait."""
        self._check()
        return self._to_program(self._events.take_but_requests())

    def _to_program(self, event: Event | None) -> aioquic_events.QuicEvent | None:
        if type(event) is StreamDataEvent:
            self._streams.on_event_taken(event.stream_id, len(event.data), self._state.clock_us)
            return aioquic_events.StreamDataReceived(
                data=event.data, end_stream=event.end_stream, stream_id=event.stream_id
            )
        return None if event is None else to_aioquic(event)
