"""The common base of an HTTP/3 connection's parts: its state, QUIC below, and how streams end.

Everything that must move is in `Http3State`. The attributes beside it can be derived: how many
bytes are held, when to look for finished streams again, and the sections that come again.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from quicbaton import limits
from quicbaton.errors import StreamStateError
from quicbaton.http3 import qlog, qpack
from quicbaton.http3 import state as s
from quicbaton.http3.codes import ErrorCode, Setting
from quicbaton.http3.errors import (
    ExcessiveLoadError,
    FieldSectionTooLargeError,
    ProtocolError,
    StreamError,
    StreamOverloadError,
)
from quicbaton.http3.events import H3Event, StreamFailed
from quicbaton.http3.rates import rate
from quicbaton.http3.sections import KnownSections
from quicbaton.http3.state import Http3State, Http3Stream
from quicbaton.http3.watching import RequestWatch
from quicbaton.http3.webtransport import OFFER
from quicbaton.transport.state import NONE

#: Streams kept before the first look for finished ones; the threshold then follows the count.
_FIRST_SWEEP: Final = 64
#: RFC 6585 §5.
_TOO_LARGE: Final = ((b":status", b"431"), (b"content-length", b"0"))
_CANCELLED: Final = rate(
    per_s=limits.CANCELLED_REQUESTS_PER_S, burst=limits.CANCELLED_REQUEST_BURST
)
_IDLE_FRAMES: Final = rate(per_s=limits.IDLE_FRAMES_PER_S, burst=limits.IDLE_FRAME_BURST)


def local_settings(*, webtransport: bool, datagrams: bool) -> dict[int, int]:
    """The settings that we announce. A connection that moves has announced exactly these: another
    result for the same arguments needs another version of the baton's format."""
    settings: dict[int, int] = {
        Setting.QPACK_MAX_TABLE_CAPACITY: 0,
        Setting.QPACK_BLOCKED_STREAMS: 0,
        Setting.MAX_FIELD_SECTION_SIZE: limits.MAX_FIELD_SECTION_BYTES,
        Setting.ENABLE_CONNECT_PROTOCOL: 1,
        Setting.DUMMY: 1,
    }
    if datagrams:
        settings[Setting.H3_DATAGRAM] = 1
    if webtransport:
        settings.update(OFFER)
    return settings


class Http3Base:
    """One connection's state, and the QUIC connection below it."""

    _quic: Any
    _quic_logger: Any
    _state: Http3State
    #: Told of requests and answers.
    watch: RequestWatch | None = None

    def _attach(self, quic: Any, state: Http3State) -> None:
        """Work on `state` over `quic`. Sends nothing."""
        self._quic = quic
        self._quic_logger = quic._quic_logger
        self._state = state
        self._streams = state.streams
        self._sections = KnownSections()
        self._is_client: bool = quic.configuration.is_client
        self._held_bytes = sum(len(stream.held or b"") for stream in state.streams.values())
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(state.streams))

    def _clock_us(self) -> int:
        """Connection time; NONE where QUIC has none: then nothing is counted per second."""
        now_us: int = getattr(self._quic, "clock_us", NONE)
        return now_us

    def __repr__(self) -> str:
        role = "client" if self._is_client else "server"
        return f"<{type(self).__name__} {role} streams={sorted(self._streams)}>"

    @property
    def received_settings(self) -> dict[int, int] | None:
        """The peer's settings; None before they came."""
        settings = self._state.received_settings
        return None if settings is None else settings.copy()

    @property
    def sent_settings(self) -> dict[int, int]:
        return local_settings(webtransport=self._webtransport, datagrams=self._datagrams)

    @property
    def _webtransport(self) -> bool:
        return bool(self._state.flags & s.OFFERS_WEBTRANSPORT)

    @property
    def _datagrams(self) -> bool:
        return bool(self._state.flags & s.OFFERS_DATAGRAMS)

    @property
    def _is_done(self) -> bool:
        return bool(self._state.flags & s.DONE)

    def forget_finished_streams(self) -> None:
        """Drop streams that the QUIC connection has finished with, if it can tell.

        A program also ends streams by calls to QUIC: it resets responses, and writes WebTransport
        data. A stream is dropped only if its end was seen here or its events go nowhere: events of
        other streams may still wait.
        """
        over = [
            stream_id
            for stream_id, stream in self._streams.items()
            if (stream.receive == s.ENDED or stream.flags & s.STOPPED)
            and self._is_finished(stream_id)
        ]
        for stream_id in over:
            del self._streams[stream_id]
        for stream_id in [known for known in self._state.priorities if self._is_finished(known)]:
            del self._state.priorities[stream_id]

    def rest(self) -> None:
        """The connection has been quiet: forget the field sections that came again, until they come
        again, and give up the room of streams that are over."""
        self._sections = KnownSections()
        if not self._streams:
            self._streams.clear()

    # --- for both directions --------------------------------------------------------------------

    def _is_finished(self, stream_id: int) -> bool:
        """Whether QUIC has finished with a stream; False when it cannot tell."""
        ask = getattr(self._quic, "stream_is_finished", None)
        return ask is not None and bool(ask(stream_id))

    def _can_send(self, stream_id: int) -> bool:
        """Whether a program may still write to a stream; True when QUIC cannot tell."""
        ask = getattr(self._quic, "can_send", None)
        return ask is None or bool(ask(stream_id))

    def _add_stream(self, stream_id: int, stream: Http3Stream) -> None:
        if len(self._streams) >= self._sweep_at:
            self.forget_finished_streams()
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._streams))
        self._streams[stream_id] = stream

    def _end_receiving(self, stream_id: int, stream: Http3Stream) -> None:
        stream.receive = s.ENDED
        if stream.held is not None:
            self._hold(stream, b"")
        if stream.send == s.ENDED:
            self._streams.pop(stream_id, None)

    def _end_sending(self, stream_id: int, stream: Http3Stream) -> None:
        stream.send = s.ENDED
        if stream.receive == s.ENDED:
            self._streams.pop(stream_id, None)

    def _abort(self, stream_id: int, stream: Http3Stream, error_code: int) -> None:
        """End both directions of a stream as far as they are open. Bytes that still come are
        dropped."""
        stream.kind = s.IGNORED
        stream.flags = 0
        self._hold(stream, b"")
        if stream.send != s.ENDED:
            self._quic.reset_stream(stream_id, error_code)
            self._end_sending(stream_id, stream)
        self._stop(stream_id, stream, error_code)

    def _stop(self, stream_id: int, stream: Http3Stream, error_code: int) -> None:
        """Ask the peer to send no more on a stream, unless it has sent everything."""
        if stream.receive != s.ENDED:
            stream.flags |= s.STOPPED
            self._quic.stop_stream(stream_id, error_code)

    def _drain(self, stream_id: int, stream: Http3Stream) -> None:
        """Drop the rest of a request whose answer is complete (RFC 9114 §4.1). Where QUIC can wait,
        the client may send on for a while before it is asked to stop: Chromium hangs when it is
        asked before it has sent everything, libcurl when it is never asked."""
        if stream.receive != s.ENDED:
            stream.flags |= s.STOPPED
            drain = getattr(self._quic, "drain_stream", self._quic.stop_stream)
            drain(stream_id, ErrorCode.H3_NO_ERROR)

    def _say_last(self, stream_id: int, data: bytes) -> None:
        """Write the last bytes of a stream, unless the program has reset it by a call to QUIC."""
        with contextlib.suppress(StreamStateError):
            self._quic.send_stream_data(stream_id, data, True)

    def _hold(self, stream: Http3Stream, data: bytes | bytearray) -> None:
        """Keep `data` in place of the bytes that were held of an unfinished stream, frame or
        section."""
        before = 0 if stream.held is None else len(stream.held)
        stream.held = bytearray(data) if data else None
        self._count_held(len(data) - before)

    def _count_held(self, size: int) -> None:
        self._held_bytes += size
        if size > 0 and self._held_bytes > limits.MAX_HELD_HTTP_BYTES:
            raise StreamOverloadError("too much is begun on the connection's streams")

    def _close(self, error: ProtocolError) -> None:
        self._state.flags |= s.DONE
        self._quic.close(error_code=error.error_code, reason_phrase=error.reason_phrase)

    def _prioritize(self, stream_id: int, urgency: int, incremental: bool) -> None:
        """Tell the transport the priority, if it has priorities."""
        prioritize = getattr(self._quic, "set_priority", None)
        if prioritize is not None:
            prioritize(stream_id, urgency, incremental)

    def _open_uni_stream(self, stream_type: int, prefix: bytes) -> int:
        stream_id: int = self._quic.get_next_available_stream_id(is_unidirectional=True)
        qlog.log_stream_type(self._quic_logger, stream_id, stream_type)
        self._quic.send_stream_data(stream_id, prefix)
        return stream_id

    def _fail_stream(
        self, stream_id: int, error: StreamError, *, ended: bool = False
    ) -> list[H3Event]:
        """Answer an error of a stream, which has `ended` or not. Raises ExcessiveLoadError after
        too many: resets that a client provokes count as those that it sends itself
        (CVE-2025-8671)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        self._note_cancelled(stream_id, stream)
        # The program knows nothing of an incomplete request to a server, nor of a WebTransport
        # stream that belongs to no session.
        known = stream.kind <= s.PUSH and (
            stream.receive != s.HEAD or (self._is_client and not stream_id & 1)
        )
        if ended:
            self._end_receiving(stream_id, stream)
        if not (
            isinstance(error, FieldSectionTooLargeError) and self._refuse_fields(stream_id, stream)
        ):
            self._abort(stream_id, stream, error.error_code)
        if not known:
            return []
        return [StreamFailed(stream_id, int(error.error_code), error.reason_phrase)]

    def _refuse_fields(self, stream_id: int, stream: Http3Stream) -> bool:
        """Answer with 431 (RFC 6585 §5), where the peer is a client that still waits for a
        response."""
        if self._is_client or stream.kind != s.REQUEST or stream.send != s.HEAD:
            return False
        frame = qpack.encode_response(_TOO_LARGE).frame
        stream.kind = s.IGNORED
        self._hold(stream, b"")
        self._say_last(stream_id, frame)
        self._end_sending(stream_id, stream)
        self._drain(stream_id, stream)
        return True

    def _note_cancelled(self, stream_id: int, stream: Http3Stream) -> None:
        """A client has reset or stopped a stream. For an unanswered request that counts as giving
        it up, once. It does not count after the answer, as for an upload that we asked to stop."""
        if self._is_client or stream.kind != s.REQUEST or stream.send == s.ENDED:
            return
        if stream.flags & s.CANCELLED:
            return
        stream.flags |= s.CANCELLED
        self._spend_cancelled()

    def _spend_cancelled(self) -> None:
        """A request was in vain, by the client's doing."""
        if (now_us := self._clock_us()) != NONE:
            whole_at_us = _CANCELLED.spend(self._state.resets_at_us, now_us)
            if whole_at_us < 0:
                raise ExcessiveLoadError("too many requests were given up")
            self._state.resets_at_us = whole_at_us

    def _spend_idle_frame(self) -> None:
        if (now_us := self._clock_us()) != NONE:
            whole_at_us = _IDLE_FRAMES.spend(self._state.idle_frames_at_us, now_us)
            if whole_at_us < 0:
                raise ExcessiveLoadError("too many frames that say nothing")
            self._state.idle_frames_at_us = whole_at_us
