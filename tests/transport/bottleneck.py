"""Downloads through a narrow link, for what a congestion controller makes of it."""

from __future__ import annotations

from typing import Any, Final

from aioquic.quic.events import QuicEvent, StreamDataReceived

from quicbaton.testing import Conditions, EndOptions, Pair
from quicbaton.transport.loss.bbr.state import BbrState
from quicbaton.transport.state import CongestionState, ConnectionState
from tests.transport.forge import state_of

#: 10 Mbit/s.
RATE: Final = 1_250_000
#: What the server has to send: more than any of these links carries while a test lasts.
ENDLESS: Final = bytes(32 << 20)
_WINDOWS: Final = {"max_data": 64 << 20, "max_stream_data": 48 << 20}


class Reader:
    """A program that takes what comes and counts it."""

    def __init__(self, connection: Any) -> None:
        self.received = 0

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self.received += len(event.data)

    def export_state(self) -> bytes:
        return b"%d" % self.received

    def import_state(self, data: bytes) -> None:
        self.received = int(data)


class Narrow:
    """A pair whose server sends through a link of `rate` bytes per second, `rtt_s` long, before
    which `queue_s` seconds' worth of datagrams find room."""

    def __init__(
        self,
        algorithm: str = "bbr",
        *,
        rate: float = RATE,
        rtt_s: float = 0.05,
        queue_s: float = 0.1,
        loss: float = 0.0,
        jitter_s: float = 0.0,
        seed: int | str = 0,
        share: Narrow | None = None,
    ) -> None:
        self.rate = rate
        self.rtt_s = rtt_s
        self.queue_s = queue_s
        self.loss = loss
        self.jitter_s = jitter_s
        self.pair = Pair(
            self.towards_server(),
            towards_client=self.towards_client(),
            client=EndOptions(create=Reader, configuration=_WINDOWS),
            server=EndOptions(create=Reader, algorithm=algorithm),
            seed=seed,
        )
        if share is not None:
            self.pair.link.share_queue(share.pair.link, "server")
        self.pair.connect()
        self.stream: int | None = None

    def towards_server(self) -> Conditions:
        return Conditions(delay_s=self.rtt_s / 2, loss=self.loss)

    def towards_client(self) -> Conditions:
        return Conditions(
            delay_s=self.rtt_s / 2,
            jitter_s=self.jitter_s,
            loss=self.loss,
            rate_bytes_per_s=self.rate,
            queue_bytes=max(int(self.queue_s * self.rate), 3_000),
        )

    def change(self, **conditions: float) -> None:
        """Have the link be another one from now on."""
        for name, value in conditions.items():
            setattr(self, name, value)
        self.pair.link.change(self.towards_server(), self.towards_client())

    # --- the server -----------------------------------------------------------------------------

    def write(self, data: bytes = ENDLESS) -> None:
        connection = self.pair.server.connection
        if self.stream is None:
            self.stream = connection.get_next_available_stream_id()
        connection.send_stream_data(self.stream, data)

    @property
    def state(self) -> ConnectionState:
        return state_of(self.pair.server)

    @property
    def congestion(self) -> CongestionState:
        return self.state.congestion

    @property
    def bbr(self) -> BbrState:
        bbr = self.congestion.bbr
        assert bbr is not None
        return bbr

    # --- what came of it ------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Bytes that the client's program has."""
        application = self.pair.client.application
        assert isinstance(application, Reader)
        return application.received

    def run(self, seconds: float) -> float:
        """Bytes per second that arrived meanwhile."""
        before = self.received
        self.pair.run(seconds=seconds)
        return (self.received - before) / seconds

    def queued_s(self) -> float:
        """How long a datagram of the server's would wait now."""
        return self.pair.link.queued_s("server", self.pair.now)

    def until_phase(self, *phases: str, seconds: float = 20) -> None:
        self.pair.run(lambda: self.bbr.phase in phases, seconds=seconds)

    def phases(self, seconds: float, step_s: float = 0.002) -> list[str]:
        """The phases that follow one another, as seen every `step_s`."""
        seen = [self.bbr.phase]
        for _ in range(round(seconds / step_s)):
            self.pair.run(seconds=step_s)
            if self.bbr.phase != seen[-1]:
                seen.append(self.bbr.phase)
        return list(seen)
