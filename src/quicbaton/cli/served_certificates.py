"""The certificates that a server shows, as their files change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicbaton.cli import user_state
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.certificate_pair import CertificatePair, Shown
from quicbaton.cli.configuration import quic_configuration
from quicbaton.cli.options.serve import TlsOptions
from quicbaton.cli.proof import prove
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError
from quicbaton.handshake import Certificate, Certificates, ClientCertificates, names_in

if TYPE_CHECKING:
    from quicbaton.asgi.tcp import TlsIdentity  # only for ASGI programs

#: Between looks at the files, which cost microseconds. Whoever has just put a certificate in place
#: looks at once whether it is shown.
_LOOK_S: Final = 2.0


class ServedCertificates:
    """Shows clients the certificates in the files that `options` name, the first for clients that
    name no server of them; without any, one that is made for this machine and `host`, and renewed
    in time. `reporter` is told of changes.

    Raises ConfigurationError for files that hold no certificate and key.
    """

    def __init__(self, options: TlsOptions, host: str, reporter: Reporter) -> None:
        files = [
            CertificateFiles(certificate.absolute(), key.absolute())
            for certificate, key in zip(options.cert, options.key, strict=True)
        ]
        self._options = options
        self._renew = None if files else partial(_make, host)
        self._reporter = reporter
        self._over_tcp = False
        self._files = files or [_make(host)]
        with self._guard():
            #: A program may change it before `begin`, its certificate, too.
            self.configuration = quic_configuration(self.first)
        self._loaded = self.configuration.certificate
        self._pairs: list[CertificatePair] = []
        #: For QUIC; the program's own, if it has brought one.
        self.for_quic = Certificates(Certificate.of(self.configuration))
        #: For TCP; None when nothing is served there.
        self.for_tcp: TlsIdentity | None = None
        #: Called when `for_tcp` has changed.
        self.on_tcp_changed: Callable[[TlsIdentity], None] = lambda _identity: None

    @property
    def first(self) -> CertificateFiles:
        """The files for clients that name no server."""
        return self._files[0]

    def begin(self, *, over_tcp: bool) -> None:
        """The configuration is as the program wants it. Raises ConfigurationError when no client
        could shake hands with us."""
        self._over_tcp = over_tcp
        if self.configuration.certificate is not self._loaded:
            prove(self.configuration, self.first)
            self.for_quic = Certificates(
                Certificate.of(self.configuration), clients=self._clients()
            )
            return
        beside = [] if self._options.client_ca is None else [self._options.client_ca]
        self._pairs = [
            CertificatePair(each, self._load, self._renew, beside) for each in self._files
        ]
        self._show()

    async def watch(self) -> None:
        """Look again and again whether files have changed, until cancelled."""
        while self._pairs:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Show new clients what has changed in the files, and is good."""
        for pair in self._pairs:
            try:
                # The files may lie on a disk that hangs; the server does not.
                changed = await asyncio.to_thread(pair.look)
            except ConfigurationError as error:
                self._reporter.event(
                    "certificate_refused",
                    f"{pair.files.certificate} is shown as it was before: {error}",
                    certificate=str(pair.files.certificate),
                    code=error.code,
                    message=str(error),
                )
                continue
            if changed:
                self._show()
                self._report_changed(pair)

    # --- helpers --------------------------------------------------------------------------------

    def _load(self, files: CertificateFiles) -> Shown:
        with self._guard():
            found = Certificate.of(quic_configuration(files))
            prove(found.within(self.configuration), files)
            clients = self._clients()
            identity = None
            if self._over_tcp:
                identity = _identity_of(files, self._options.keylog, clients)
            return Shown(found, identity, clients)

    def _clients(self) -> ClientCertificates | None:
        """What clients are asked for, by the files as they are now."""
        path = self._options.client_ca
        if path is None:
            return None
        required = self._options.client_cert == "required"
        try:
            return ClientCertificates.of(path.read_bytes(), required=required)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"cannot use {path} as the authorities of clients: {error}; it must be a PEM file "
                "with their certificates"
            ) from error

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        """Other servers may be renewing the files that were made here."""
        if self._renew is None:
            return contextlib.nullcontext()
        return user_state.locked(user_state.state_folder())

    def _show(self) -> None:
        clients = self._pairs[0].shown.clients
        self.for_quic.replace([pair.shown.quic for pair in self._pairs], clients)
        self.for_tcp = self._identity(clients)
        if self.for_tcp is not None:
            self.on_tcp_changed(self.for_tcp)

    def _identity(self, clients: ClientCertificates | None) -> TlsIdentity | None:
        """The TLS of all certificates together, for TCP."""
        identities = [
            (names_in(pair.shown.quic.leaf), pair.shown.tcp)
            for pair in self._pairs
            if pair.shown.tcp is not None
        ]
        return _identity_by_name(identities, clients) if identities else None

    def _report_changed(self, pair: CertificatePair) -> None:
        name = str(pair.files.certificate)
        until = pair.shown.quic.leaf.not_valid_after_utc
        self._reporter.event(
            "certificate_changed",
            f"new clients are shown {name} as it is now, valid until {until}",
            certificate=name,
            not_after=until.isoformat(),
        )


def _make(host: str) -> CertificateFiles:
    """Make a certificate for this machine, or find the one that is still good."""
    try:
        return user_state.local_certificate(host)
    except OSError as error:
        raise ConfigurationError(f"cannot make a certificate: {error}") from error


def _identity_of(
    files: CertificateFiles, keylog: Path | None, clients: ClientCertificates | None
) -> TlsIdentity:
    """TLS with the certificate that QUIC uses."""
    from quicbaton.asgi.tcp import tls_identity  # noqa: PLC0415 - only for ASGI programs

    try:
        return tls_identity(files.certificate, files.key, keylog, clients)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot use {files.certificate} with {files.key} over TCP: {error}"
        ) from error


def _identity_by_name(
    identities: Sequence[tuple[Iterable[str], TlsIdentity]], clients: ClientCertificates | None
) -> TlsIdentity:
    """TLS with several certificates, each with its names."""
    from quicbaton.asgi.tcp import tls_by_name  # noqa: PLC0415 - only for ASGI programs

    return identities[0][1] if len(identities) == 1 else tls_by_name(identities, clients)
