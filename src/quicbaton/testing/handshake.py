"""The aioquic connections with which a pair begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ssl import CERT_NONE
from types import MappingProxyType
from typing import Any, Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quicbaton.handshake import prepare
from quicbaton.routing.quic_lb import IdLayout
from quicbaton.testing.certificate import SERVER_NAME, self_signed
from quicbaton.testing.end import CreateApplication, Kind
from quicbaton.transport.paths.ids import IdIssuer

_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})


class EndOptions:
    """The options for one end of a pair."""

    def __init__(
        self,
        kind: Kind = "quicbaton",
        *,
        create: CreateApplication | None = None,
        configuration: Mapping[str, Any] = _NO_OPTIONS,
        configure: Callable[[QuicConnection], None] | None = None,
        algorithm: str = "cubic",
    ) -> None:
        """`configuration` goes to aioquic's `QuicConfiguration`; `configure` gets the aioquic
        object before its first datagram. `create` makes the application, as aioquic's
        `create_protocol` does. `algorithm` is the congestion control after promotion."""
        self.kind: Kind = kind
        self.create = create
        self.configuration = configuration
        self.configure = configure
        self.algorithm = algorithm

    @classmethod
    def of(cls, options: EndOptions | Kind) -> EndOptions:
        return options if isinstance(options, EndOptions) else cls(options)


def new_client(
    options: EndOptions, common: Mapping[str, Any], issuer: IdIssuer, first_destination: bytes
) -> QuicConnection:
    """A client that has sent nothing yet; `common` is configuration that both ends share. An
    aioquic one makes up its own first destination ID, unless its connection IDs are empty."""
    settings = {
        "server_name": SERVER_NAME,
        "verify_mode": CERT_NONE,
        "connection_id_length": _cid_bytes(options),
        **common,
        **options.configuration,
    }
    quic = QuicConnection(configuration=QuicConfiguration(is_client=True, **settings))
    length = quic.configuration.connection_id_length
    if (
        options.kind == "quicbaton" or not length
    ):  # prepare() tells what aioquic does with empty IDs
        cid, _ = issuer.issue()
        prepare(quic, cid[:length], b"", first_destination=first_destination)
    if options.configure is not None:
        options.configure(quic)
    return quic


def new_server(
    options: EndOptions, common: Mapping[str, Any], issuer: IdIssuer, first_destination: bytes
) -> QuicConnection:
    """A server for the one connection that begins with `first_destination`."""
    certificate, key = self_signed()
    settings = {
        "certificate": certificate,
        "private_key": key,
        "connection_id_length": _cid_bytes(options),
        **common,
        **options.configuration,
    }
    quic = QuicConnection(
        configuration=QuicConfiguration(is_client=False, **settings),
        original_destination_connection_id=first_destination,
    )
    if options.kind == "quicbaton":
        prepare(quic, *issuer.issue())
    if options.configure is not None:
        options.configure(quic)
    return quic


def _cid_bytes(options: EndOptions) -> int:
    return IdLayout().length if options.kind == "quicbaton" else 8
