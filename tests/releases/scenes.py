"""The moments at which samples are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioquic.tls import CipherSuite

from quicbaton.http3 import H3Connection
from quicbaton.testing import Conditions, EndOptions, Pair
from quicbaton.transport.packets.cipher import VERSION_2
from tests.releases.sample import Exchanges

_LINK: Final = Conditions(delay_s=0.01)


def _begin(pair: Pair) -> Exchanges:
    pair.connect()
    for end in (pair.client, pair.server):
        end.http = H3Connection(end.connection)
    exchanges = Exchanges(pair)
    exchanges.run(0.1)
    return exchanges


def download() -> Exchanges:
    """A response in the middle: congestion window, unsent and unacknowledged bytes."""
    exchanges = _begin(Pair(_LINK, seed="download"))
    exchanges.ask(b"GET")
    exchanges.run(0.045)
    return exchanges


def upload() -> Exchanges:
    """A request in the middle: credit given and used, bytes taken and not acknowledged."""
    exchanges = _begin(Pair(_LINK, seed="upload"))
    exchanges.ask(b"POST")
    exchanges.run(0.035)
    return exchanges


def losses() -> Exchanges:
    """Three responses at once over a bad link, by NewReno: holes at both ends, recovery, probes."""
    server = EndOptions(algorithm="reno")
    link = Conditions(delay_s=0.01, loss=0.05, jitter_s=0.005)
    exchanges = _begin(Pair(link, server=server, seed="losses"))
    for _ in range(3):
        exchanges.ask(b"GET")
    exchanges.run(0.12)
    return exchanges


def phases() -> Exchanges:
    """QUIC version 2 with ChaCha20, in its third key phase, on the client's second address."""
    pair = Pair(
        _LINK, version=VERSION_2, cipher=CipherSuite.CHACHA20_POLY1305_SHA256, seed="phases"
    )
    exchanges = _begin(pair)
    for _ in range(2):
        exchanges.ask(b"GET")
        exchanges.run(0.3)
        pair.client.connection.request_key_update()
    # Whoever goes on with it has the client back at its first address.
    pair.rebind()
    exchanges.ask(b"GET")
    exchanges.run(0.05)
    return exchanges


def idle() -> Exchanges:
    """Nothing under way, after a response and an upload."""
    exchanges = _begin(Pair(_LINK, seed="idle"))
    exchanges.ask(b"GET")
    exchanges.ask(b"POST")
    exchanges.run(2)
    return exchanges


SCENES: Final[tuple[Callable[[], Exchanges], ...]] = (download, upload, losses, phases, idle)
