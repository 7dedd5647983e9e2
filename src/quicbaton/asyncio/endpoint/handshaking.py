"""A connection that aioquic still drives: from its first datagram until promotion."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from aioquic.quic import events
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode

from quicbaton.asyncio.endpoint.udp import Datagram, UdpSocket
from quicbaton.errors import RefusedError
from quicbaton.handshake import EcnCounts, Promotion, dismantle, promote, ready
from quicbaton.handshake.congestion_choice import DEFAULT_ALGORITHM
from quicbaton.transport.state import Address

_BROKEN_OFF: Final = events.ConnectionTerminated(QuicErrorCode.INTERNAL_ERROR, None, "")


class Handshaking:
    """Drives aioquic's `quic` on a socket; calls one of the two callbacks when that is over.

    `on_promoted(handshake, promotion, rest)` gets the datagrams of the batch that aioquic did not
    see; `on_failed(handshake, event)` gets the reason why there is no connection.
    """

    def __init__(
        self,
        quic: QuicConnection,
        udp: UdpSocket,
        on_promoted: Callable[[Handshaking, Promotion, list[Datagram]], None],
        on_failed: Callable[[Handshaking, events.ConnectionTerminated], None],
        congestion_control: str = DEFAULT_ALGORITHM,
        deadline_s: float | None = None,
    ) -> None:
        """`deadline_s`: give up silently after this time; None is as long as aioquic waits."""
        self.quic = quic
        self._ecn = EcnCounts(quic)
        self._udp = udp
        self._on_promoted = on_promoted
        self._on_failed = on_failed
        self._congestion_control = congestion_control
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._local: Address = ()
        self._over = False
        self._deadline = (
            None if deadline_s is None else self._loop.call_later(deadline_s, self._give_up)
        )
        self.since_s = monotonic()
        #: Our connection ID, hexadecimal: the name of the connection.
        self.name = quic.host_cid.hex()

    def __repr__(self) -> str:
        return f"<Handshaking {self.name}>"

    @property
    def peer(self) -> str:
        address = self.quic.get_peer_address()
        return "" if address is None else f"{address[0]}:{address[1]}"

    @property
    def age_us(self) -> int:
        """Since its first datagram."""
        return round((monotonic() - self.since_s) * 1e6)

    def connect(self, remote: Address) -> None:
        """Send a client's first flight."""
        address: Any = remote
        self.quic.connect(address, now=monotonic())
        self._transmit()

    def receive(self, batch: list[Datagram]) -> None:
        """Process datagrams up to the one that confirms the handshake."""
        if self._over:
            return
        try:
            self._process(batch)
        except Exception:
            # Whatever error this is, aioquic may have armed no timer: nothing else would ever end
            # this handshake, and an attacker that can provoke it could fill all places.
            if not self._over:
                self.abandon()
                self._on_failed(self, _BROKEN_OFF)
            raise

    def close(self) -> None:
        """Tell the peer that there will be no connection, and stop."""
        if not self._over:
            self._fail(QuicErrorCode.NO_ERROR, "")

    def abandon(self) -> None:
        """Stop at once, without telling the peer."""
        self._end()

    # --- helpers --------------------------------------------------------------------------------

    def _process(self, batch: list[Datagram]) -> None:
        for index, datagram in enumerate(batch):
            self._local = datagram.local
            address: Any = datagram.remote
            now = monotonic()
            self._ecn.receive(datagram.data, address, datagram.ecn, now)
            if ready(self.quic):
                self._promote(now, batch[index + 1 :])
                return
        if self.quic.get_peer_address() is None:
            # No packet in them was even well-formed: its Length goes beyond the datagram, say.
            # There is no peer to answer, and nothing was begun.
            self.abandon()
            self._on_failed(self, _BROKEN_OFF)
            return
        self._transmit()

    def _promote(self, now: float, rest: list[Datagram]) -> None:
        try:
            promotion = promote(
                self.quic,
                now,
                local_address=self._local,
                algorithm=self._congestion_control,
                ecn_received=self._ecn.one_rtt,
            )
        except RefusedError as error:
            self._fail(QuicErrorCode.INTERNAL_ERROR, str(error))
            return
        self._end()
        self._on_promoted(self, promotion, rest)

    def _fail(self, error_code: int, reason: str) -> None:
        """Close at once: the peer's further datagrams find no connection."""
        self.quic.close(error_code, reason_phrase=reason)
        self._send()
        self._end()
        self._on_failed(self, events.ConnectionTerminated(error_code, None, reason))

    def _send(self) -> None:
        for data, address in self.quic.datagrams_to_send(now=monotonic()):
            self._udp.send_datagram(data, address, self._local)

    def _transmit(self) -> None:
        self._send()
        if self._terminated():
            return
        at = self.quic.get_timer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = self._loop.call_later(max(0.0, at - monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.quic.handle_timer(now=monotonic())
        self._transmit()

    def _give_up(self) -> None:
        """Give up without telling the client: one that did not finish in time may not even
        exist."""
        self.abandon()
        self._on_failed(self, _BROKEN_OFF)

    def _terminated(self) -> bool:
        """Whether aioquic gave up. Its other events wait: a promotion replays them."""
        event = _termination(self.quic)
        if event is None:
            return False
        self._end()
        self._on_failed(self, event)
        return True

    def _end(self) -> None:
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dismantle(self.quic)


def _termination(quic: QuicConnection) -> events.ConnectionTerminated | None:
    """The ConnectionTerminated among a connection's queued events, if it is over."""
    if quic.get_timer() is not None:
        return None  # aioquic disarms its timer only at the very end
    while (event := quic.next_event()) is not None:
        if isinstance(event, events.ConnectionTerminated):
            return event
    return None
