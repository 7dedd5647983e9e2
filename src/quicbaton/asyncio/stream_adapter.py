"""One QUIC stream as an asyncio transport, for `StreamReader` and `StreamWriter`."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


class StreamHost(Protocol):
    """The protocol object of a stream's connection."""

    _quic: Any
    _loop: asyncio.AbstractEventLoop
    _streams: dict[int, StreamAdapter]

    def transmit_soon(self) -> None:
        """Send what is due at the next turn of the event loop."""


class StreamAdapter(asyncio.Transport):
    """The asyncio transport of one stream, with backpressure in both directions.

    Closing it ends the sending side only, as in aioquic: the peer's bytes can still be read. The
    stream is over, and `StreamWriter.wait_closed` returns, when both sides have ended.
    """

    def __init__(
        self,
        protocol: StreamHost,
        stream_id: int,
        reader: asyncio.StreamReader,
        stream_protocol: asyncio.StreamReaderProtocol,
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._stream_id = stream_id
        self._reader = reader
        self._stream_protocol = stream_protocol
        self._writable = bool(protocol._quic.can_send(stream_id))
        #: No more will be written.
        self._closing = not self._writable
        #: No more will be read.
        self._ended = bool(stream_id & 2) and self._writable
        #: `close` or `abort` was called.
        self._closed = False
        #: The code of a STOP_SENDING: the peer's, or ours after the stream's handler failed.
        self._stopped: int | None = None
        self._writing_paused = False
        self._reading_paused = False

    # --- of asyncio -----------------------------------------------------------------------------

    def can_write_eof(self) -> bool:
        """Whether we can send on the stream at all."""
        return self._writable

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`stream_id`, and `peername`: the peer's address, as far as it is proved."""
        if name == "stream_id":
            return self._stream_id
        return self._protocol._quic.get_peer_address() if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._stopped is not None:
            raise ConnectionResetError(f"the stream was stopped ({self._stopped})")
        quic = self._protocol._quic
        quic.send_stream_data(self._stream_id, bytes(data))
        if not self._writing_paused and quic.is_congested(self._stream_id):
            self._writing_paused = True
            self._stream_protocol.pause_writing()
        self._protocol.transmit_soon()

    def write_eof(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._stopped is None:
            self._protocol._quic.send_stream_data(self._stream_id, b"", end_stream=True)
            self._protocol.transmit_soon()
        self._forget_if_over()

    def close(self) -> None:
        self._closed = True
        self.write_eof()
        self._forget_if_over()

    def abort(self) -> None:
        """Reset the sending side and refuse the peer's further bytes."""
        if self._writable:
            self._protocol._quic.reset_stream(self._stream_id, 0)
        self._end(0)

    def abandon(self, error_code: int) -> None:
        """The stream's handler has failed: reset the directions that have not ended. Readers and
        writers of the stream get an error."""
        if not self._closing:
            self._protocol._quic.reset_stream(self._stream_id, error_code)
            self._stopped = error_code
        if not self._ended:
            self._reader.set_exception(ConnectionResetError("the stream's handler has failed"))
        self._end(error_code)

    def _end(self, error_code: int) -> None:
        if not self._ended:
            self._protocol._quic.stop_stream(self._stream_id, error_code)
        self._protocol.transmit_soon()
        self._closed = self._closing = self._ended = True
        self.resume_writing()
        self._forget_if_over()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True
        self._protocol._quic.pause_reading(self._stream_id)

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._protocol._quic.resume_reading(self._stream_id)
        self._protocol.transmit_soon()

    def is_reading(self) -> bool:
        return not self._reading_paused

    # --- of the protocol ------------------------------------------------------------------------

    def feed(self, data: bytes, end_stream: bool) -> None:
        """Take the peer's bytes, in order."""
        if self._ended:
            return
        self._reader.feed_data(data)
        if end_stream:
            self._reader.feed_eof()
            self._ended = True
            self._forget_if_over()

    def fail_reading(self, error_code: int) -> None:
        """The peer has reset its side."""
        self._reader.set_exception(
            ConnectionResetError(f"the peer reset the stream ({error_code})")
        )
        self._ended = True
        self._forget_if_over()

    def fail_writing(self, error_code: int) -> None:
        """The peer wants no more of our bytes: waiting and later writes raise."""
        self._stopped = error_code
        self.resume_writing()

    def resume_writing(self) -> None:
        """The buffer has room again."""
        if self._writing_paused:
            self._writing_paused = False
            self._stream_protocol.resume_writing()
            self._forget_if_over()

    def end(self, error_code: int, reason: str) -> None:
        """The connection is over. A reader that was not at its end gets an error, unless the peer
        closed without one; aioquic gives readers none."""
        self._closing = True
        lost = None if self._ended or error_code == 0 else ConnectionResetError(reason)
        self._stream_protocol.connection_lost(lost)

    def _forget_if_over(self) -> None:
        if self._closing and self._ended and not self._writing_paused:
            self._protocol._streams.pop(self._stream_id, None)
            if self._closed:
                # Later, since this may be called from within the application.
                self._protocol._loop.call_soon(self._stream_protocol.connection_lost, None)
