"""One end of a pair: aioquic until the handshake is confirmed and then a quicbaton `Connection`, or
aioquic throughout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent

from quicbaton.baton.sleep import Asleep
from quicbaton.errors import CallerError
from quicbaton.handshake import EcnCounts, PostHandshakeTls, promote, ready
from quicbaton.http3 import H3Connection
from quicbaton.testing.cluster import Cluster
from quicbaton.testing.entropy import Entropy
from quicbaton.testing.link import Direction, Marked, ecn_of
from quicbaton.testing.nonces import NonceChecker
from quicbaton.transport.connection import Connection
from quicbaton.transport.paths.ids import IdIssuer
from quicbaton.transport.state import Address

#: The implementation: our transport after an aioquic handshake, or aioquic throughout.
Kind = Literal["quicbaton", "aioquic"]


class Application(Protocol):
    """A program on a connection: what `quicbaton.asyncio.QuicConnectionProtocol` is, too.

    If it has an attribute `_http` with an `H3Connection`, that moves along, and is set in the
    next owner's object before `import_state` is called. `export_descriptors`,
    `import_descriptors` and `connection_left` are called where it has them.
    """

    def quic_event_received(self, event: QuicEvent) -> None: ...
    def export_state(self) -> bytes: ...
    def import_state(self, data: bytes) -> None: ...


class Simulation(Protocol):
    """The pair to which an end belongs."""

    now: float
    nonces: NonceChecker
    cluster: Cluster
    server: End

    def run(self, until: Callable[[], bool] | None = None, *, seconds: float | None = None) -> None:
        """Step until `until()` holds, or for `seconds` of virtual time."""

    def replace(self, end: End) -> None:
        """Continue with `end` in place of the present one on its side."""


#: Makes an application for a connection: aioquic's `create_protocol`.
CreateApplication = Callable[[Any], Application]


class End:
    """A connection at its address. Another `End` replaces it when the connection moves.

    With an application, events go to it as they come. Without one they wait in the connection for
    `next_event`, and move along.
    """

    def __init__(
        self,
        side: Direction,
        kind: Kind,
        address: Address,
        *,
        pair: Simulation,
        issuer: IdIssuer,
        entropy: Entropy,
        create: CreateApplication | None = None,
        algorithm: str = "cubic",
    ) -> None:
        self.side: Direction = side
        self.kind: Kind = kind
        self.address = address
        self.pair = pair
        self.issuer = issuer
        self.create = create
        self._application: Application | None = None
        self._http: H3Connection | None = None
        #: Datagrams that came while the connection was frozen: (data, source).
        self.strays: list[tuple[bytes, Address]] = []
        self.frozen = False
        self.term = 0
        self.peer_cid_bytes = 0
        self.session_tickets: list[Any] = []
        self.entropy = entropy
        self.algorithm = algorithm
        self._quic: QuicConnection | None = None
        self._marks: EcnCounts | None = None
        self._connection: Connection | None = None
        self._asleep: Asleep | None = None
        self._wake: Callable[[], None] = lambda: None
        self._tls: PostHandshakeTls | None = None

    def __repr__(self) -> str:
        phase = "frozen" if self.frozen else "up" if self.is_up else "handshaking"
        phase = "asleep" if self.asleep else phase
        return f"<End {self.side} {self.kind} {phase} {self.address} term={self.term}>"

    # --- getters --------------------------------------------------------------------------------

    @property
    def connection(self) -> Any:
        """The sans-IO object to talk to: `Connection`, or aioquic's until there is one. Reading
        this or one of the next two properties wakes a sleeping end."""
        self._wake()
        return self._quic if self._connection is None else self._connection

    @property
    def application(self) -> Application | None:
        """The program, if there is one."""
        self._wake()
        return self._application

    @property
    def http(self) -> H3Connection | None:
        """HTTP/3 of an end without a program. Set it, and it moves along."""
        self._wake()
        return self._http

    @http.setter
    def http(self, http: H3Connection | None) -> None:
        self._http = http

    @property
    def asleep(self) -> bool:
        """Whether only bytes are left. The next datagram or deadline wakes the end."""
        return self._asleep is not None

    @property
    def is_up(self) -> bool:
        """Whether the handshake is confirmed and, for a quicbaton end, promotion is done."""
        if self._connection is not None or self._asleep is not None:
            return True
        return self.kind == "aioquic" and self._quic is not None and ready(self._quic)

    @property
    def started(self) -> bool:
        """Whether there is a connection: a server has none before its first datagram."""
        if self._connection is not None or self._asleep is not None:
            return True
        return self._quic is not None and self._quic.get_peer_address() is not None

    def get_timer(self) -> float | None:
        if self._asleep is not None:
            return self._asleep.wake_at_s
        return None if self.frozen or not self.started else self.connection.get_timer()

    # --- what happened --------------------------------------------------------------------------

    def adopt(self, quic: QuicConnection) -> None:
        """Drive this connection, from its handshake on."""
        self._quic = quic
        self._marks = EcnCounts(quic)
        if self.kind == "aioquic":
            self._make_application()

    def resume(
        self,
        connection: Connection,
        http: H3Connection | None,
        application: bytes,
        descriptors: list[int] | None = None,
    ) -> None:
        """Begin with a connection that another owner had. This end has to close `descriptors`."""
        self._connection = connection
        self._http = http
        self._make_application()
        if self.application is not None:
            if descriptors:
                self.application.import_descriptors(descriptors)  # type: ignore[attr-defined]
            if hasattr(self.application, "_http"):
                self.application._http = http
            self.application.import_state(application)

    def let_go(self) -> None:
        """Tell the application that it has lost the connection."""
        left = getattr(self._application, "connection_left", None)
        if left is not None:
            left()

    def lie_down(self, asleep: Asleep, wake: Callable[[], None]) -> None:
        """Keep only these bytes until `wake` is called."""
        self.let_go()
        self._connection = self._application = self._http = None
        self._asleep, self._wake = asleep, wake

    def get_up(self, connection: Connection, http: H3Connection | None, application: bytes) -> None:
        """Go on with the connection that was put to sleep."""
        self._asleep, self._wake = None, lambda: None
        self.resume(connection, http, application)

    def receive(self, data: bytes, source: Address, now: float) -> None:
        if self.frozen:
            self.strays.append((data, source))
            return
        if self._connection is not None or self.asleep:
            self.connection.receive_datagram(data, source, now, ecn=ecn_of(data))
        elif self._marks is not None:
            address: Any = source
            self._marks.receive(data, address, ecn_of(data), now)
        if self._connection is None and self.kind == "quicbaton":
            self._promote_if_ready(now)
        self.process()

    def handle_timer(self, now: float) -> None:
        self.connection.handle_timer(now)
        self.process()

    def process(self) -> None:
        """Give events to the application, if there is one."""
        if self.application is None or (self.kind == "quicbaton" and self._connection is None):
            return
        while (event := self.connection.next_event()) is not None:
            self.application.quic_event_received(event)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        if self.frozen or self.asleep or not self.started:
            return []
        connection = self._connection
        if connection is None:
            aioquic_s: list[tuple[bytes, Address]] = self.connection.datagrams_to_send(now)
            return aioquic_s
        datagrams: list[tuple[bytes, Address]] = []
        while trains := connection.trains_to_send(now):
            for train in trains:
                datagrams += [
                    (Marked.of(data, train.ecn), train.remote) for data in train.datagrams()
                ]
            if not connection.has_more:
                break
        return datagrams

    def take_events(self) -> list[QuicEvent]:
        """All waiting events, for a test without an application."""
        events: list[QuicEvent] = []
        while (event := self.connection.next_event()) is not None:
            events.append(event)
        return events

    def on_crypto(self, data: bytes) -> None:
        """Take post-handshake TLS data, a client's session tickets. A moved client ignores them."""
        if self._tls is not None:
            self.session_tickets += self._tls.receive(data)

    # --- helpers, in reading order --------------------------------------------------------------

    def _make_application(self) -> None:
        if self.create is not None:
            self._application = self.create(self.connection)

    def _promote_if_ready(self, now: float) -> None:
        quic = self._quic
        if quic is None or not ready(quic):
            return
        local: Address = ()
        promotion = promote(
            quic,
            now,
            local_address=local,
            algorithm=self.algorithm,
            ecn_received=(0, 0, 0) if self._marks is None else self._marks.one_rtt,
        )
        self._tls = promotion.tls
        self._connection = Connection(
            promotion.state,
            origin_s=promotion.origin_s,
            issuer=self.issuer,
            entropy=self.entropy,
            configuration=quic.configuration,
            on_crypto=self.on_crypto if self.side == "client" else None,
        )
        self._connection.start()
        self.pair.nonces.learn(
            promotion.state.protection,
            is_client=self.side == "client",
            own_cid_bytes=len(quic.host_cid),
            cid_bytes=self.peer_cid_bytes,
        )
        if promotion.key_update_wanted:
            raise CallerError("ask for a key update once the handshake is over")
        self._make_application()
