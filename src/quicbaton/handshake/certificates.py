"""The certificates that a server shows to new clients: one of several, by the name that the client
asks for. They may change while the server runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import Context
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from quicbaton.handshake.client_certificates import ClientCertificates

_T = TypeVar("_T")

PrivateKey = (
    dsa.DSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | rsa.RSAPrivateKey
)


class Certificate(NamedTuple):
    """A server's certificate, those that lead from it to an authority, and its private key."""

    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    @classmethod
    def of(cls, configuration: QuicConfiguration) -> Certificate:
        """That of a server's configuration, which has one."""
        return cls(
            configuration.certificate,
            tuple(configuration.certificate_chain),
            configuration.private_key,
        )

    def within(self, configuration: QuicConfiguration) -> QuicConfiguration:
        """A configuration with this certificate, and otherwise like that one, without its logs."""
        return dataclasses.replace(
            configuration,
            certificate=self.leaf,
            certificate_chain=list(self.chain),
            private_key=self.key,
            quic_logger=None,
            secrets_log_file=None,
        )


class ByName(Generic[_T]):
    """Finds which of `entries`, each with the names in its certificate, a client asks for."""

    def __init__(self, entries: Sequence[tuple[Iterable[str], _T]]) -> None:
        """The first entry is for clients that name no server, or one that nobody here is."""
        self.entries = [entry for _, entry in entries]
        self._numbers: dict[str, int] = {}
        for number, (names, _) in enumerate(entries):
            for name in names:
                self._numbers.setdefault(name.lower(), number)

    def find(self, server_name: str | None) -> _T:
        """The first entry that has the name (RFC 6066 §3), or a pattern for it: RFC 6125 §6.4.3, in
        which `*` stands for the whole leftmost label and for nothing else."""
        name = (server_name or "").lower()
        numbers = [self._numbers[name]] if name in self._numbers else []
        label, dot, rest = name.partition(".")
        if label and dot and f"*.{rest}" in self._numbers:
            numbers.append(self._numbers[f"*.{rest}"])
        return self.entries[min(numbers, default=0)]


class Certificates:
    """Those of an endpoint, the first for clients that name no server. They may be replaced at any
    time: a client is shown one of those that are there when its ClientHello is processed. `clients`
    says whether clients are asked for certificates of theirs."""

    def __init__(
        self, *certificates: Certificate, clients: ClientCertificates | None = None
    ) -> None:
        self.replace(certificates, clients)

    def replace(
        self, certificates: Sequence[Certificate], clients: ClientCertificates | None = None
    ) -> None:
        self._by_name = ByName([(names_in(one.leaf), one) for one in certificates])
        self.clients = clients
        #: Until when they are valid, in Unix time, by the first name in each.
        self.ends: dict[str, int] = {}
        for one in certificates:
            name = (names_in(one.leaf) or [one.leaf.subject.rfc4514_string()])[0]
            end = int(one.leaf.not_valid_after_utc.timestamp())
            self.ends[name] = min(end, self.ends.get(name, end))

    @property
    def all(self) -> list[Certificate]:
        return self._by_name.entries

    def present(self, tls: Context, server_name: str | None) -> None:
        """Have a server's `tls`, which has not processed the ClientHello yet, show one of them."""
        shown = self._by_name.find(server_name)
        tls.certificate = shown.leaf
        tls.certificate_chain = list(shown.chain)
        tls.certificate_private_key = shown.key


def names_in(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses that the certificate is for (subjectAltName)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return []
    names = found.value
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *(str(one) for one in addresses)]
