"""From datagrams to frames to the parts that own them (RFC 9000 §12, §13.1, §19).

A batch is unprotected at once. STREAM frames are read in the loop, since uploads consist of them,
and those that continue each other are handed on as one; all other frames go through a table. ACK
frames are put aside until the batch is read, and then the newest comes first: an older one that it
covers has no news.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport import qlog
from quicbaton.transport.closing import Closing
from quicbaton.transport.event_queue import EventQueue
from quicbaton.transport.frames import decode_varint
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.packets.acks import Ack, AckReader, ReceivedNumbers
from quicbaton.transport.packets.coalesced import short_packet
from quicbaton.transport.packets.protection import PacketProtection
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.paths.paths import Paths
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Address,
    ConnectionState,
    PathState,
)
from quicbaton.transport.streams.crypto import CryptoStream
from quicbaton.transport.streams.gathering import StreamGathering
from quicbaton.transport.streams.streams import Streams

#: Frames that do not ask for an ACK (§13.2.1).
_NOT_ELICITING: Final = frozenset(
    {f.PADDING, f.ACK, f.ACK_ECN, f.TRANSPORT_CLOSE, f.APPLICATION_CLOSE}
)
_ACKS: Final = frozenset({f.ACK, f.ACK_ECN})
#: Frames that do not make the peer's new address the active path (§9.1).
_PROBING: Final = frozenset({f.PADDING, f.PATH_CHALLENGE, f.PATH_RESPONSE, f.NEW_CONNECTION_ID})

#: The ECN bits of a packet that met congestion (RFC 3168 §5).
_CONGESTION_EXPERIENCED: Final = 3


class Receiver:
    """Reads datagrams for one connection and hands their contents to its parts."""

    def __init__(
        self,
        state: ConnectionState,
        events: EventQueue,
        closing: Closing,
        protection: PacketProtection,
        received: ReceivedNumbers,
        recovery: Recovery,
        streams: Streams,
        ids: ConnectionIds,
        paths: Paths,
        crypto: CryptoStream,
        on_token: Callable[[bytes], None],
        trace: QuicLoggerTrace | None,
    ) -> None:
        self._trace = trace
        self._state = state
        self._events = events
        self._closing = closing
        self._protection = protection
        self._received = received
        self._recovery = recovery
        self._streams = streams
        self._ids = ids
        self._paths = paths
        self._crypto = crypto
        self._on_token = on_token
        # The packet that is being read, for its frames' handlers.
        self._now_us = 0
        self._path: PathState = state.paths[0]
        self._packet_dcid = b""
        self._acks: list[Ack] = []
        self._ack_reader = AckReader()
        self._ack_at_once = False
        self._gathering = StreamGathering(streams)
        self._kinds: list[int] = []  # frame types of the packet, for a trace

    def receive(
        self,
        datagrams: Sequence[bytes],
        remote: Address,
        local: Address,
        ecn: int,
        now_us: int,
    ) -> None:
        """Process datagrams that came from one address, in order of arrival.

        Raises TransportError for an error of the peer; the connection must then be closed.
        """
        state = self._state
        cid_length = len(state.ids.local[0].cid) if state.ids.local else 0
        packets = [short_packet(datagram, state.protection.version) for datagram in datagrams]
        opened = self._protection.open(
            packets, cid_length, state.numbers.largest_received, now_us, self._recovery.pto_us()
        )
        self._now_us = now_us
        self._acks.clear()
        self._ack_reader.begin()
        self._gathering.begin(now_us)
        self._events.begin_gathering(self._gathering.hand_on)
        try:
            authentic = self._read_packets(datagrams, packets, opened, remote, local, ecn)
        finally:
            # Also before an error ends the connection: the program gets the earlier data.
            self._events.end_gathering()
        if authentic:
            if self._ack_at_once:
                self._ack_at_once = False
                if state.numbers.ack_at_us != NEVER:
                    state.numbers.ack_at_us = now_us
            state.idle_from_us = now_us
            state.idle_sent_since = False
            self._process_acks(now_us)

    # --- helpers, in reading order --------------------------------------------------------------

    def _read_packets(
        self,
        datagrams: Sequence[bytes],
        packets: Sequence[bytes],
        opened: Sequence[tuple[int, bytes] | None],
        remote: Address,
        local: Address,
        ecn: int,
    ) -> bool:
        """Process the unprotected packets; True when one was authentic and new.

        In most batches each number follows the last one, and all are for one ID. Then the path is
        looked for once, and the numbers are recorded together.
        """
        state = self._state
        numbers = state.numbers
        received = self._received
        now_us = self._now_us
        cid_end = 1 + (len(state.ids.local[0].cid) if state.ids.local else 0)
        authentic = False
        first = stop = numbers.largest_received + 1  # of the numbers that are yet to be recorded
        eliciting_count = 0
        try:
            for index, result in enumerate(opened):
                if result is None:
                    if self._is_stateless_reset(datagrams[index]):
                        self._drain(f.NO_ERROR, NONE, "stateless reset received")  # §10.3.1
                        break
                    continue
                number, payload = result
                dcid = packets[index][1:cid_end]
                path = state.paths[0]
                follows = (
                    authentic
                    and number == stop
                    and path is self._path
                    and path.validated
                    and dcid == self._packet_dcid
                )
                if not follows:
                    received.on_run(first, stop, eliciting_count, now_us)
                    eliciting_count = 0
                    admitted = self._admit(remote, local, dcid, len(datagrams[index]), result)
                    first = stop = numbers.largest_received + 1
                    if not admitted:
                        continue
                    authentic = True
                if ecn:
                    self._count_mark(ecn)
                eliciting, probing = self._read_frames(payload)
                if self._trace is not None:
                    qlog.log_received(self._trace, number, len(payload), self._kinds)
                    self._kinds.clear()
                if follows and not probing and numbers.largest_non_probing == NONE:
                    stop = number + 1
                    eliciting_count += eliciting
                else:
                    received.on_run(first, stop, eliciting_count, now_us)
                    eliciting_count = 0
                    self._record(number, eliciting, probing)
                    first = stop = numbers.largest_received + 1
                if state.closing is not None:
                    break
        finally:
            received.on_run(first, stop, eliciting_count, now_us)
        return authentic

    def _admit(
        self, remote: Address, local: Address, dcid: bytes, size: int, packet: tuple[int, bytes]
    ) -> bool:
        """Find the path of a packet that was authentic; False if its frames must not be read."""
        if self._received.is_duplicate(packet[0]):
            self._on_duplicate(remote, local, dcid, size, packet)
            return False
        path = self._paths.on_datagram(remote, local, size)
        if path is None:
            return False
        if dcid != self._packet_dcid or path is not self._path:
            self._path = path
            self._packet_dcid = dcid
            self._paths.on_local_id(path, dcid)
        return True

    def _count_mark(self, ecn: int) -> None:
        # §19.3.2: ECT(1), ECT(0), CE are 1, 2, 3 in the IP header.
        self._state.numbers.ecn_received[(1, 0, 2)[ecn - 1]] += 1
        if ecn == _CONGESTION_EXPERIENCED:
            self._ack_at_once = True  # §13.2.1: the sender should know at once

    def _record(self, number: int, eliciting: bool, probing: bool) -> None:
        """Record a packet by itself: a path may have to follow it."""
        now_us = self._now_us
        newest = self._received.on_packet(number, eliciting, now_us, probing=probing)
        moved = not probing and self._path is not self._state.paths[0]
        if moved and self._paths.on_non_probing(self._path, number, is_newest=newest):
            self._recovery.on_path_change(now_us)

    def _on_duplicate(
        self, remote: Address, local: Address, dcid: bytes, size: int, packet: tuple[int, bytes]
    ) -> None:
        number, payload = packet
        first = payload.lstrip(b"\0")[:1]
        if not first or first[0] in _PROBING:
            return  # as its first frame tells, behind what a short packet is padded with
        if self._paths.on_duplicate(remote, local, dcid, size, number):
            # The last ACK went to an address that may be no peer's.
            self._state.numbers.ack_at_us = self._now_us

    def _read_frames(self, payload: bytes) -> tuple[bool, bool]:
        """Handle all frames; (is ack-eliciting, holds probing frames only)."""
        at = 0
        end = len(payload)
        eliciting = False
        probing = True
        tracing = self._trace is not None
        kind = f.PADDING
        if not payload:
            raise TransportError(f.PROTOCOL_VIOLATION, "a packet without frames")
        try:
            while at < end:
                kind = payload[at]
                if tracing:
                    self._kinds.append(kind)
                if 0x08 <= kind <= 0x0F:
                    at = self._gathering.read(payload, at + 1, end, kind)
                    eliciting = True
                    probing = False
                    continue
                if kind == f.PADDING:
                    # In one step: padding comes by the hundred.
                    at = end - len(payload[at:].lstrip(b"\0"))
                    continue
                if kind in _ACKS:
                    ack, at = self._ack_reader.read(payload, at + 1, kind == f.ACK_ECN)
                    self._acks.append(ack)
                    probing = False
                    continue
                handler = _HANDLERS.get(kind)
                if handler is None:
                    raise _unknown_type(payload, at)
                # A frame is judged by what came before it: RESET_STREAM by the bytes received.
                self._gathering.hand_on()
                eliciting |= kind not in _NOT_ELICITING
                probing &= kind in _PROBING
                at = handler(self, payload, at + 1)
        except TransportError as error:
            # §19.19: the frame at fault, if the code that raised could not know it.
            error.frame_type = error.frame_type or kind
            raise
        return eliciting, probing

    def _process_acks(self, now_us: int) -> None:
        acks = self._acks
        if not acks:
            return
        if len(acks) > 1:
            acks.sort(key=_largest, reverse=True)
        exponent = self._state.remote.ack_delay_exponent
        newest = acks[0][0]
        for ranges, delay, counts in acks:
            # An endpoint never takes an acknowledgement back, down to the lowest number that it
            # still reports: an older ACK matters only where it reaches lower.
            if ranges is not newest and ranges[-1][0] >= newest[-1][0]:
                continue
            self._recovery.on_ack(ranges, delay << exponent, now_us, counts)
            self._protection.on_acked(ranges[0][1] - 1)
        if self._trace is not None:
            qlog.log_metrics(self._trace, self._state)

    def _is_stateless_reset(self, datagram: bytes) -> bool:
        """RFC 9000 §10.3.1: the last 16 bytes are a token that the peer gave us."""
        return len(datagram) >= 21 and datagram[-16:] in self._ids.reset_tokens()

    def _drain(self, error_code: int, frame_type: int, reason: str) -> None:
        until_us = self._now_us + 3 * self._recovery.pto_us()
        self._closing.drain(error_code, frame_type, reason, until_us)

    # --- one handler per frame type: (payload, position behind the type) -> position behind -----

    def _on_ping(self, payload: bytes, at: int) -> int:
        return at

    def _on_reset_stream(self, payload: bytes, at: int) -> int:
        stream_id, at = decode_varint(payload, at)
        code, at = decode_varint(payload, at)
        final_size, at = decode_varint(payload, at)
        self._streams.on_reset_stream(stream_id, code, final_size)
        return at

    def _on_stop_sending(self, payload: bytes, at: int) -> int:
        stream_id, at = decode_varint(payload, at)
        code, at = decode_varint(payload, at)
        self._streams.on_stop_sending(stream_id, code)
        return at

    def _on_crypto(self, payload: bytes, at: int) -> int:
        offset, at = decode_varint(payload, at)
        data, at = _pull(payload, at, f.CRYPTO)
        self._crypto.on_crypto(offset, data)
        return at

    def _on_new_token(self, payload: bytes, at: int) -> int:
        token, at = _pull(payload, at, f.NEW_TOKEN)
        if not self._state.is_client:
            raise TransportError(f.PROTOCOL_VIOLATION, "NEW_TOKEN from a client", f.NEW_TOKEN)
        if not token:
            raise TransportError(f.FRAME_ENCODING_ERROR, "an empty token", f.NEW_TOKEN)
        self._on_token(token)
        return at

    def _on_max_data(self, payload: bytes, at: int) -> int:
        limit, at = decode_varint(payload, at)
        self._streams.on_max_data(limit)
        return at

    def _on_max_stream_data(self, payload: bytes, at: int) -> int:
        stream_id, at = decode_varint(payload, at)
        limit, at = decode_varint(payload, at)
        self._streams.on_max_stream_data(stream_id, limit)
        return at

    def _on_max_streams_bidi(self, payload: bytes, at: int) -> int:
        limit, at = decode_varint(payload, at)
        self._streams.on_max_streams(False, limit)
        return at

    def _on_max_streams_uni(self, payload: bytes, at: int) -> int:
        limit, at = decode_varint(payload, at)
        self._streams.on_max_streams(True, limit)
        return at

    def _on_data_blocked(self, payload: bytes, at: int) -> int:
        # Credit follows consumption; that the peer waits for it changes nothing (§4.1).
        _, at = decode_varint(payload, at)
        return at

    def _on_stream_data_blocked(self, payload: bytes, at: int) -> int:
        stream_id, at = decode_varint(payload, at)
        limit, at = decode_varint(payload, at)
        self._streams.on_stream_data_blocked(stream_id, limit)
        return at

    def _on_streams_blocked(self, payload: bytes, at: int) -> int:
        limit, at = decode_varint(payload, at)
        if limit > 1 << 60:
            raise TransportError(
                f.FRAME_ENCODING_ERROR, "more streams than there can be", f.STREAMS_BLOCKED_BIDI
            )
        return at

    def _on_new_connection_id(self, payload: bytes, at: int) -> int:
        sequence, at = decode_varint(payload, at)
        retire_prior_to, at = decode_varint(payload, at)
        length = payload[at] if at < len(payload) else 0
        cid = payload[at + 1 : at + 1 + length]
        token = payload[at + 1 + length : at + 17 + length]
        if not 1 <= length <= 20 or len(token) != 16:
            raise TransportError(
                f.FRAME_ENCODING_ERROR, "connection ID of a forbidden length", f.NEW_CONNECTION_ID
            )
        self._ids.on_new_connection_id(sequence, retire_prior_to, cid, token)
        return at + 17 + length

    def _on_retire_connection_id(self, payload: bytes, at: int) -> int:
        sequence, at = decode_varint(payload, at)
        self._ids.on_retire_connection_id(sequence, self._packet_dcid)
        # Nothing answers it that an ACK could go along with: to wait for that would cost a handoff
        # a timer and another turn of sending, an eighth of a new owner's work.
        self._ack_at_once = True
        return at

    def _on_path_challenge(self, payload: bytes, at: int) -> int:
        self._paths.on_challenge(self._path, _pull_eight(payload, at, f.PATH_CHALLENGE))
        return at + 8

    def _on_path_response(self, payload: bytes, at: int) -> int:
        if self._paths.on_response(_pull_eight(payload, at, f.PATH_RESPONSE)):
            self._recovery.on_path_change(self._now_us)
        return at + 8

    def _on_transport_close(self, payload: bytes, at: int) -> int:
        error_code, at = decode_varint(payload, at)
        frame_type, at = decode_varint(payload, at)
        reason, at = _pull(payload, at, f.TRANSPORT_CLOSE)
        self._drain(error_code, frame_type, reason.decode("utf8", "replace"))
        return at

    def _on_application_close(self, payload: bytes, at: int) -> int:
        error_code, at = decode_varint(payload, at)
        reason, at = _pull(payload, at, f.APPLICATION_CLOSE)
        self._drain(error_code, NONE, reason.decode("utf8", "replace"))
        return at

    def _on_handshake_done(self, _payload: bytes, at: int) -> int:
        if not self._state.is_client:
            raise TransportError(
                f.PROTOCOL_VIOLATION, "HANDSHAKE_DONE from a client", f.HANDSHAKE_DONE
            )
        return at

    def _on_datagram(self, payload: bytes, at: int) -> int:
        self._deliver_datagram(payload[at:], len(payload) - at + 1)
        return len(payload)

    def _on_datagram_with_length(self, payload: bytes, at: int) -> int:
        begin = at
        data, at = _pull(payload, at, f.DATAGRAM_LEN)
        self._deliver_datagram(data, at - begin + 1)
        return at

    def _deliver_datagram(self, data: bytes, frame_bytes: int) -> None:
        # RFC 9221 §3: larger than we said, or not announced at all.
        if frame_bytes > self._state.local.max_datagram_frame_bytes:
            raise TransportError(
                f.PROTOCOL_VIOLATION, "DATAGRAM frame larger than announced", f.DATAGRAM
            )
        self._events.append_datagram(data)


# One table for all connections: to build one for each takes a tenth of resuming it.
_HANDLERS: Final[dict[int, Callable[[Receiver, bytes, int], int]]] = {
    f.PING: Receiver._on_ping,
    f.RESET_STREAM: Receiver._on_reset_stream,
    f.STOP_SENDING: Receiver._on_stop_sending,
    f.CRYPTO: Receiver._on_crypto,
    f.NEW_TOKEN: Receiver._on_new_token,
    f.MAX_DATA: Receiver._on_max_data,
    f.MAX_STREAM_DATA: Receiver._on_max_stream_data,
    f.MAX_STREAMS_BIDI: Receiver._on_max_streams_bidi,
    f.MAX_STREAMS_UNI: Receiver._on_max_streams_uni,
    f.DATA_BLOCKED: Receiver._on_data_blocked,
    f.STREAM_DATA_BLOCKED: Receiver._on_stream_data_blocked,
    f.STREAMS_BLOCKED_BIDI: Receiver._on_streams_blocked,
    f.STREAMS_BLOCKED_UNI: Receiver._on_streams_blocked,
    f.NEW_CONNECTION_ID: Receiver._on_new_connection_id,
    f.RETIRE_CONNECTION_ID: Receiver._on_retire_connection_id,
    f.PATH_CHALLENGE: Receiver._on_path_challenge,
    f.PATH_RESPONSE: Receiver._on_path_response,
    f.TRANSPORT_CLOSE: Receiver._on_transport_close,
    f.APPLICATION_CLOSE: Receiver._on_application_close,
    f.HANDSHAKE_DONE: Receiver._on_handshake_done,
    f.DATAGRAM: Receiver._on_datagram,
    f.DATAGRAM_LEN: Receiver._on_datagram_with_length,
}


def _unknown_type(payload: bytes, at: int) -> TransportError:
    """§12.4: bytes that begin no frame. A type of several bytes is named as a whole; one that would
    fit in fewer must not be written so."""
    kind, _ = decode_varint(payload, at)
    if kind in _HANDLERS or kind == f.PADDING or kind in _ACKS or 0x08 <= kind <= 0x0F:
        return TransportError(f.PROTOCOL_VIOLATION, "a frame type in too many bytes", kind)
    return TransportError(f.FRAME_ENCODING_ERROR, "unknown frame type", kind)


def _largest(ack: Ack) -> int:
    return ack[0][0][1]


def _pull(payload: bytes, at: int, kind: int) -> tuple[bytes, int]:
    """The bytes that follow a length at `at`, and the position after them."""
    length, at = decode_varint(payload, at)
    end = at + length
    if end > len(payload):
        raise TransportError(f.FRAME_ENCODING_ERROR, "a frame is longer than its packet", kind)
    return payload[at:end], end


def _pull_eight(payload: bytes, at: int, kind: int) -> bytes:
    data = payload[at : at + 8]
    if len(data) != 8:
        raise TransportError(f.FRAME_ENCODING_ERROR, "a frame is longer than its packet", kind)
    return data
