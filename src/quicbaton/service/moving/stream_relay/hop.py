"""Relayed streams of which neither the program nor the connection is here any more.

    old owner                   this process                    new owner
    StandIn ◄══ Stream… messages ══► Hop ◄══ Stream… messages ══► NewOwner ◄─► client

When a connection moves on whose streams are relayed to its owner, their relay moves with it as
data: the bytes under way in each direction, and those that are kept. From then on this process
passes messages on, in their order and unchanged. The windows are between the two ends.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from quicbaton.baton.snapshot import RelayedStream
from quicbaton.errors import PeerError
from quicbaton.handoff.messages import (
    OpenStream,
    RelayedDatagram,
    RelayMessage,
    StreamBytes,
    StreamCredit,
    StreamMessage,
    StreamOpened,
    StreamReset,
    StreamsCut,
    StreamStop,
)
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.webtransport import session_of_datagram, session_of_stream
from quicbaton.reasons import Reason
from quicbaton.service.moving.stream_relay.ended import EndedStreams
from quicbaton.service.moving.stream_relay.wire import Wire

#: RFC 9000 §2.1: the type of streams on which we cannot send.
_CLIENTS_UNIDIRECTIONAL: Final = 2


class _Direction:
    """One direction of a stream that passes. It is over when its end has passed, and the credit for
    all bytes has come back. Before that, bytes that this process has taken may not have left it."""

    __slots__ = ("_ended", "_uncredited_bytes")

    def __init__(self, uncredited_bytes: int = 0, *, ended: bool) -> None:
        self._uncredited_bytes = uncredited_bytes
        self._ended = ended

    @property
    def has_ended(self) -> bool:
        """Whether its sender has sent everything, or its receiver wants no more."""
        return self._ended

    @property
    def is_over(self) -> bool:
        return self._ended and not self._uncredited_bytes

    def note_bytes(self, size_bytes: int, *, end: bool) -> None:
        # Bytes that the receiver does not want are never credited.
        if not self._ended:
            self._uncredited_bytes += size_bytes + end
            self._ended = end

    def note_reset(self) -> None:
        """Count the end of a direction as one byte, even if it comes twice."""
        self._uncredited_bytes += not self._ended
        self._ended = True

    def note_credit(self, size_bytes: int) -> None:
        self._uncredited_bytes -= size_bytes
        if self._uncredited_bytes < 0:
            raise PeerError("credit for bytes that were never sent", code=Reason.RELAY_CREDIT)

    def note_stop(self) -> None:
        self._ended = True
        self._uncredited_bytes = 0


class _Passing(NamedTuple):
    """One stream: the messages that must pass before both ends have forgotten it."""

    down: _Direction  # towards the client
    up: _Direction

    @classmethod
    def of(cls, relayed: RelayedStream) -> _Passing:
        to_left, from_left = relayed.to_left, relayed.from_left
        down, up = _Direction(ended=True), _Direction(ended=True)
        if from_left is not None:
            down = _Direction(from_left.uncredited_bytes, ended=from_left.ended)
        if to_left is not None:
            # Bytes that are kept pass through here later.
            is_whole = to_left.ended and not to_left.kept and not to_left.fin_kept
            up = _Direction(to_left.uncredited_bytes, ended=is_whole)
        return cls(down, up)

    @property
    def is_over(self) -> bool:
        return self.down.is_over and self.up.is_over

    def note(self, message: RelayMessage, *, is_down: bool) -> None:
        """One of the two ends has sent this message. PeerError: it may not."""
        forth, back = (self.down, self.up) if is_down else (self.up, self.down)
        if isinstance(message, StreamBytes):
            forth.note_bytes(len(message.data), end=message.end_stream)
        elif isinstance(message, StreamReset):
            forth.note_reset()
        elif isinstance(message, StreamCredit):
            back.note_credit(message.size_bytes)
        elif isinstance(message, StreamStop):
            back.note_stop()


class Hop:
    """All passing streams of one connection. `left` leads to the old owner, `owner` to the new
    one."""

    def __init__(self, left: Wire, owner: Wire, relayed: list[RelayedStream]) -> None:
        self.left = left
        self.owner = owner
        self._streams = {stream.stream_id: _Passing.of(stream) for stream in relayed}
        self._ended = EndedStreams()
        self._sessions = {stream.stream_id for stream in relayed if stream.is_session}
        #: Streams that the old owner has asked for.
        self._asked: set[int] = set()
        #: Messages of the old owner, until the new one knows that it owns the connection.
        self._early: list[RelayMessage] | None = []

    def __repr__(self) -> str:
        return f"<Hop {self.owner.connection_id.hex()} streams={sorted(self._streams)}>"

    @property
    def stream_ids(self) -> list[int]:
        """The streams of which messages may still come."""
        return list(self._streams)

    def open(self) -> None:
        """COMMITTED is on its way to the new owner: pass messages on."""
        early, self._early = self._early or [], None
        for message in early:
            self.on_left(message)

    def takes(self, message: RelayMessage) -> bool:
        """Whether a message of the new owner is about streams that pass through here. Otherwise it
        is about streams whose program is here."""
        if isinstance(message, RelayedDatagram):
            return session_of_datagram(message.data) in self._sessions
        if isinstance(message, StreamOpened):
            return message.request in self._asked
        if not isinstance(message, StreamMessage):
            return False
        if self._knows(message.stream_id):
            return True
        if not isinstance(message, StreamBytes):
            return False
        # A new stream begins with its whole header.
        return session_of_stream(message.stream_id, message.data) in self._sessions

    def on_left(self, message: RelayMessage) -> None:
        """Pass on a message of the old owner."""
        if self._early is not None:
            self._early.append(message)
            return
        if isinstance(message, StreamsCut):
            self.cut_owner(ErrorCode.H3_REQUEST_CANCELLED)
            return
        if isinstance(message, OpenStream):
            self._asked.add(message.request)
        elif isinstance(message, StreamMessage):
            passing = self._streams.get(message.stream_id)
            if passing is None:
                return  # crossed with its end
            passing.note(message, is_down=True)
        self.owner.pass_on(message)
        self._forget_if_over(message)

    def on_owner(self, message: RelayMessage) -> None:
        """Pass on a message of the new owner that `takes` has claimed."""
        if isinstance(message, StreamOpened):
            self._asked.discard(message.request)
            self._begin(message.stream_id, sends=True, receives=not message.stream_id & 2)
        elif isinstance(message, StreamMessage):
            if not self._knows(message.stream_id):
                self._begin(message.stream_id, sends=not message.stream_id & 2, receives=True)
            passing = self._streams.get(message.stream_id)
            if passing is None:
                return  # crossed with its end
            passing.note(message, is_down=False)
        self.left.pass_on(message)
        self._forget_if_over(message)

    def refuse(self, message: RelayMessage) -> None:
        """End a stream that no one here knows, of which the new owner has sent a message."""
        if isinstance(message, (StreamBytes, StreamOpened)):
            self.owner.send_stop(message.stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            if message.stream_id & 3 != _CLIENTS_UNIDIRECTIONAL:
                self.owner.send_reset(message.stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def cut_owner(self, error_code: int = ErrorCode.H3_INTERNAL_ERROR) -> None:
        """The old owner sends no more: the client learns that these streams are not whole. Others
        may be relayed over the same link."""
        for stream_id, passing in self._streams.items():
            if not passing.down.has_ended:
                self.owner.send_reset(stream_id, error_code)
            if not passing.up.has_ended:
                self.owner.send_stop(stream_id, error_code)
        self._forget_all()

    def cut_left(self, code: Reason) -> None:
        """The new owner relays no more."""
        self.left.send_cut(code)
        self._forget_all()

    def cut(self, code: Reason) -> None:
        """This process passes nothing on any more."""
        self.cut_owner(ErrorCode.H3_REQUEST_CANCELLED)
        self.cut_left(code)

    # --- helpers --------------------------------------------------------------------------------

    def _knows(self, stream_id: int) -> bool:
        return stream_id in self._streams or stream_id in self._ended

    def _begin(self, stream_id: int, *, sends: bool, receives: bool) -> None:
        self._streams[stream_id] = _Passing(
            down=_Direction(ended=not sends), up=_Direction(ended=not receives)
        )

    def _forget_all(self) -> None:
        for stream_id in self._streams:
            self._ended.add(stream_id)
        self._streams.clear()

    def _forget_if_over(self, message: RelayMessage) -> None:
        stream_id = getattr(message, "stream_id", -1)
        passing = self._streams.get(stream_id)
        if passing is not None and passing.is_over:
            del self._streams[stream_id]
            self._ended.add(stream_id)
            self._sessions.discard(stream_id)
