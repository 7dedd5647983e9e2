"""Keys of Initial packets (RFC 9001 §5.2), for the QUIC versions in which packets come.

With a client's first datagram aioquic derives the keys of all versions that it supports, in 47 µs
for each. Nearly all clients use one. Here the others' are derived when such a packet comes, or when
the handshake goes over to that version (RFC 9368 §2.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch


def initialize(
    quic: QuicConnection, initialize_all: Callable[[bytes], None], first_destination: bytes
) -> None:
    """Call a server's `initialize_all`, aioquic's own, such that it derives the keys of the
    client's version only."""
    configuration = quic._configuration
    serialize = quic._serialize_transport_parameters

    def serialize_and_narrow() -> bytes:
        # Our transport parameters name all versions. What aioquic does after it has made them looks
        # at the versions for its keys alone.
        parameters = serialize()
        narrowed: Any = _OneVersion(configuration, quic._version)
        quic._configuration = narrowed
        return parameters

    # An attribute of the object shadows the method of its class: aioquic calls this instead.
    quic._serialize_transport_parameters = serialize_and_narrow  # type: ignore[method-assign]
    try:
        initialize_all(first_destination)
    finally:
        quic._configuration = configuration
        del vars(quic)["_serialize_transport_parameters"]
    quic._cryptos_initial = InitialKeys(
        quic._cryptos_initial, first_destination, quic._spaces[Epoch.INITIAL]
    )


class InitialKeys(dict[int, CryptoPair]):
    """Those of one handshake by version, in place of aioquic's dict. It asks for versions that it
    supports only."""

    def __init__(
        self, known: dict[int, CryptoPair], first_destination: bytes, space: QuicPacketSpace
    ) -> None:
        super().__init__(known)
        self._first_destination = first_destination
        self._space = space

    def __missing__(self, version: int) -> CryptoPair:
        pair = CryptoPair()
        # RFC 9001 §4.9.1: when Initial keys are discarded, so are those that nobody has used.
        if not self._space.discarded:
            pair.setup_initial(cid=self._first_destination, is_client=False, version=version)
        self[version] = pair
        return pair


class _OneVersion:
    """A configuration, as it is but for its versions."""

    def __init__(self, configuration: Any, version: int | None) -> None:
        self._configuration = configuration
        self.supported_versions = [version]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configuration, name)
