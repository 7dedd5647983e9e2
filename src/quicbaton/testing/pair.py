"""A client and a server joined by a link, with one clock for all three.

    pair = Pair(Conditions(delay_s=0.05, loss=0.02), seed=7)
    pair.connect()
    pair.client.connection.send_stream_data(0, b"hello", end_stream=True)
    server = move(pair.server)
    pair.run(seconds=1)
    server.take_events()

Either end is a quicbaton `Connection` or an aioquic `QuicConnection`; both speak aioquic's API.
Time is virtual and moves only in `step`, `run` and `move`. One seed gives one run, as far as TLS
allows: its key shares and signatures come from the operating system. So the bytes differ, and the
sizes of handshake packets by one or two, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from aioquic.tls import CipherSuite

from quicbaton.testing.cluster import Cluster
from quicbaton.testing.end import End, Kind
from quicbaton.testing.entropy import Entropy
from quicbaton.testing.errors import SpinningError, StuckError
from quicbaton.testing.handshake import EndOptions, new_client, new_server
from quicbaton.testing.link import Conditions, Delivery, Direction, Link
from quicbaton.testing.nonces import NonceChecker
from quicbaton.transport.packets.cipher import VERSION_1
from quicbaton.transport.state import Address

CLIENT_ADDRESS: Final[Address] = ("192.0.2.1", 50_000)
SERVER_ADDRESS: Final[Address] = ("192.0.2.2", 443)
#: The clock at the beginning: not zero, where mistakes would go unnoticed.
START_S: Final = 1000.0
#: Timers of one end that fire in a row without time passing: after these many they never stop.
_MAX_TIMERS_AT_ONCE: Final = 100
#: How much later than asked aioquic's timers fire.
_LATE_S: Final = 1e-6
#: Steps of one `run`: far more than a test takes.
_MAX_STEPS: Final = 1_000_000


class Pair:
    """See the module's head."""

    def __init__(
        self,
        conditions: Conditions = Conditions(),  # noqa: B008 - frozen
        *,
        towards_client: Conditions | None = None,
        client: EndOptions | Kind = "quicbaton",
        server: EndOptions | Kind = "quicbaton",
        seed: int | str = 0,
        version: int = VERSION_1,
        cipher: CipherSuite = CipherSuite.AES_128_GCM_SHA256,
        alpn: str = "h3",
    ) -> None:
        """`conditions` hold for the client's datagrams, and for the server's unless
        `towards_client` is given."""
        entropy = Entropy(seed)
        self.now = START_S
        self.link = Link(conditions, towards_client, seed)
        self.nonces = NonceChecker()
        self.cluster = Cluster(entropy.child("cluster"))
        self._timers_at_once = 0
        common = {
            "alpn_protocols": [alpn],
            "supported_versions": [version],
            "original_version": version,
            "cipher_suites": [cipher],
            "max_datagram_frame_size": 65_536,
        }
        client_options = EndOptions.of(client)
        server_options = EndOptions.of(server)
        self.client = self._end("client", CLIENT_ADDRESS, client_options, entropy)
        self.server = self._end("server", SERVER_ADDRESS, server_options, entropy)
        first_destination = entropy.child("first destination")(8)
        client_quic = new_client(client_options, common, self.client.issuer, first_destination)
        server_quic = new_server(
            server_options,
            common,
            self.server.issuer,
            client_quic.original_destination_connection_id,
        )
        self.client.peer_cid_bytes = server_quic.configuration.connection_id_length
        self.server.peer_cid_bytes = client_quic.configuration.connection_id_length
        self.client.adopt(client_quic)
        self.server.adopt(server_quic)

    # --- commands -------------------------------------------------------------------------------

    def connect(self, seconds: float = 20) -> None:
        """Run the handshake until both ends are up."""
        address: Any = SERVER_ADDRESS
        self.client.connection.connect(address, now=self.now)
        self.run(lambda: self.client.is_up and self.server.is_up, seconds=seconds)

    def step(self) -> bool:
        """Send datagrams that are due, then let one thing happen: a datagram arrives or a timer
        fires.

        False when nothing will ever happen again.
        """
        self.transmit()
        return self._step()

    def run(self, until: Callable[[], bool] | None = None, *, seconds: float | None = None) -> None:
        """Step until `until()` holds, or for `seconds` of virtual time.

        With `until`, alone or with `seconds`, a run that does not get there raises StuckError. The
        clock stands at the end of `seconds` if nothing stopped the run before.
        """
        stop = None if seconds is None else self.now + seconds
        for number in range(_MAX_STEPS):
            if until is not None and until():
                return
            # A step sends what is due, and only `until` can have made more of it since.
            if until is not None or not number:
                self.transmit()
            following = self.next_at_s()
            if following is None or (stop is not None and following > stop):
                break
            self._step()
        else:
            raise StuckError(f"{_MAX_STEPS} steps led nowhere; now is {self.now:.6f}")
        if stop is not None:
            self.now = max(self.now, stop)
        if until is not None and not until():
            raise StuckError(f"not there at {self.now:.6f}: {self!r}")

    def transmit(self) -> None:
        """Send the datagrams that are due at both ends. `step` does it, too."""
        for end in (self.client, self.server):
            for data, destination in end.datagrams_to_send(self.now):
                self.nonces.observe(end.side, data)
                self.link.send(end.side, data, end.address, destination, self.now)

    def next_at_s(self) -> float | None:
        """When something happens next; None: never. Call `transmit` first."""
        _, timer = self._next_timer()
        times = [at for at in (timer, self.link.next_at_s()) if at is not None]
        return min(times, default=None)

    def rebind(self, address: Address | None = None) -> Address:
        """Give the client another address, as a NAT does: by default another port of its host.

        Datagrams on their way to the old address are lost. Returns the new address.
        """
        host, port = self.client.address[:2]
        self.client.address = address or (host, int(port) + 1)
        return self.client.address

    def replace(self, end: End) -> None:
        """Deliver the datagrams for its side to `end` from now on."""
        if end.side == "client":
            self.client = end
        else:
            self.server = end

    def __repr__(self) -> str:
        return (
            f"<Pair at {self.now:.6f}, {self.link.in_flight} datagrams in flight, "
            f"{self.client!r} {self.client.connection!r}, {self.server!r} "
            f"{self.server.connection!r}>"
        )

    # --- helpers, in reading order --------------------------------------------------------------

    def _step(self) -> bool:
        """`step`, with all that was due sent already: to try again costs as much as the step."""
        arrival = self.link.next_at_s()
        end, timer = self._next_timer()
        if arrival is not None and (timer is None or arrival <= timer):
            self._advance(arrival)
            self._deliver(self.link.pop())
        elif end is not None and timer is not None:
            self._fire(end, timer)
        else:
            return False
        self.transmit()
        return True

    def _end(self, side: Direction, address: Address, options: EndOptions, entropy: Entropy) -> End:
        return End(
            side,
            options.kind,
            address,
            pair=self,
            issuer=self.cluster.new_worker(),
            entropy=entropy.child(side),
            create=options.create,
            algorithm=options.algorithm,
        )

    def _next_timer(self) -> tuple[End | None, float | None]:
        """The end whose timer fires next, and when."""
        first, first_at = None, None
        for end in (self.client, self.server):
            at = end.get_timer()
            if at is not None and (first_at is None or at < first_at):
                first, first_at = end, at
        return first, first_at

    def _advance(self, at: float) -> None:
        if at > self.now:
            self.now = at
            self._timers_at_once = 0

    def _deliver(self, arrival: Delivery) -> None:
        for end in (self.client, self.server):
            if end.side != arrival.direction and end.address == arrival.destination:
                end.receive(arrival.data, arrival.source, self.now)

    def _fire(self, end: End, at: float) -> None:
        # aioquic compares sums of floats in two ways, and a clock that stands still can keep it
        # between the two for ever. So its timers fire a little late, as on a real clock.
        self._advance(at if end.kind == "quicbaton" else max(at, self.now) + _LATE_S)
        self._timers_at_once += 1
        if self._timers_at_once > _MAX_TIMERS_AT_ONCE:
            raise SpinningError(f"the timer of {end!r} fires for ever at {self.now:.6f}")
        end.handle_timer(self.now)


def run_together(pairs: Sequence[Pair], *, seconds: float) -> None:
    """Let `seconds` of virtual time pass for pairs whose links share a queue (`share_queue`).

    Whatever happens next in any of them happens first, so datagrams join the queue in order. A pair
    whose clock is behind catches up before.
    """
    begin = max(pair.now for pair in pairs)
    for pair in pairs:
        pair.run(seconds=begin - pair.now)
    stop = begin + seconds
    for pair in pairs:
        pair.transmit()
    while True:
        following = None
        at = stop
        for pair in pairs:
            next_at = pair.next_at_s()
            if next_at is not None and next_at <= at:
                following, at = pair, next_at
        if following is None:
            break
        following._step()
    for pair in pairs:
        pair.now = stop
