"""An aioquic client and server joined in memory: real handshakes, a clock of our own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite, SessionTicket
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quicbaton.handshake import Promotion, prepare, promote, ready

CLIENT_ADDRESS = ("192.0.2.1", 50_000)
SERVER_ADDRESS = ("192.0.2.2", 443)
SERVER_CID = bytes(range(8))
CLIENT_CID = bytes(range(16, 24))
TOKEN = bytes(range(32, 48))
FIRST_DESTINATION = bytes(range(64, 72))
V1 = 0x00000001
V2 = 0x6B3343CF
ONE_WAY_S = 0.01


@cache
def certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("example.test")]), False)
        .sign(key, hashes.SHA256())
    )
    return built, key


class Pair:
    """Two connections and the datagrams between them. Time passes only by `advance`."""

    def __init__(
        self,
        *,
        version: int = V1,
        cipher: CipherSuite = CipherSuite.AES_128_GCM_SHA256,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        tickets: dict[bytes, SessionTicket] | None = None,
        retry_from: bytes | None = None,
        prepared: bool = True,
    ) -> None:
        self.now = 1000.0
        self.client_tickets: list[SessionTicket] = []
        chain, key = certificate()
        common: dict[str, Any] = {
            "alpn_protocols": ["h3"],
            "cipher_suites": [cipher],
            "supported_versions": [version],
        }
        client_configuration = QuicConfiguration(
            is_client=True,
            verify_mode=0,
            **{**common, "server_name": "example.test", **(client or {})},
        )
        self.client = QuicConnection(
            configuration=client_configuration,
            session_ticket_handler=self.client_tickets.append,
        )
        server_configuration = QuicConfiguration(
            is_client=False, certificate=chain, private_key=key, **{**common, **(server or {})}
        )
        handlers: dict[str, Any] = {}
        if tickets is not None:
            handlers = {
                "session_ticket_fetcher": tickets.get,
                "session_ticket_handler": lambda t: tickets.__setitem__(t.ticket, t),
            }
        self.server = QuicConnection(
            configuration=server_configuration,
            original_destination_connection_id=FIRST_DESTINATION,
            retry_source_connection_id=retry_from,
            **handlers,
        )
        if prepared:
            prepare(self.server, SERVER_CID, TOKEN)
            cid = CLIENT_CID[: client_configuration.connection_id_length]
            prepare(self.client, cid, b"", first_destination=FIRST_DESTINATION)
        else:
            self.client._peer_cid.cid = FIRST_DESTINATION
            self.client._original_destination_connection_id = FIRST_DESTINATION
        if retry_from is not None:
            # What a Retry leaves behind at the client, without the packet.
            self.client._peer_cid.cid = retry_from
            self.client._retry_source_connection_id = retry_from

    def connect(self) -> None:
        self.client.connect(SERVER_ADDRESS, now=self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def from_client(self) -> list[bytes]:
        return [data for data, _ in self.client.datagrams_to_send(self.now)]

    def from_server(self) -> list[bytes]:
        if not self.server._network_paths:
            return []  # nothing has reached it yet
        return [data for data, _ in self.server.datagrams_to_send(self.now)]

    def all_from_client(self) -> list[bytes]:
        """The client's datagrams of 30 ms: aioquic paces."""
        datagrams = []
        for _ in range(10):
            datagrams += self.from_client()
            self.advance(0.003)
        return datagrams

    def to_server(self, datagrams: list[bytes]) -> None:
        self.advance(ONE_WAY_S)
        for data in datagrams:
            self.server.receive_datagram(data, CLIENT_ADDRESS, self.now)

    def to_client(self, datagrams: list[bytes]) -> None:
        self.advance(ONE_WAY_S)
        for data in datagrams:
            self.client.receive_datagram(data, SERVER_ADDRESS, self.now)

    def until(self, done: Callable[[], bool]) -> None:
        """Exchange datagrams until `done` after one of them; fire timers when nobody has any."""
        for _ in range(20):
            quiet = True
            for data in self.from_client():
                quiet = False
                self.to_server([data])
                if done():
                    return
            for data in self.from_server():
                quiet = False
                self.to_client([data])
                if done():
                    return
            if quiet:
                self.fire_timers()
        raise AssertionError("the handshake got stuck")

    def fire_timers(self) -> None:
        timers = [t for t in (self.client.get_timer(), self.server.get_timer()) if t is not None]
        self.now = max(self.now, min(timers))
        self.client.handle_timer(self.now)
        if self.server.get_timer() is not None:
            self.server.handle_timer(self.now)

    def until_server_ready(self) -> None:
        self.connect()
        self.until(lambda: ready(self.server))

    def until_client_ready(self) -> None:
        self.connect()
        self.until(lambda: ready(self.client))

    def promote_server(self) -> Promotion:
        return promote(self.server, self.now, local_address=SERVER_ADDRESS)

    def promote_client(self) -> Promotion:
        return promote(self.client, self.now, local_address=CLIENT_ADDRESS)
