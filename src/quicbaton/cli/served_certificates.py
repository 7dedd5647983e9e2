"""The certificates that a server shows, as their files change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicbaton.cli import tcp, user_state
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.certificate_pair import CertificatePair, Shown
from quicbaton.cli.configuration import quic_configuration
from quicbaton.cli.proof import prove
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError
from quicbaton.handshake import Certificate, Certificates

if TYPE_CHECKING:
    from quicbaton.asgi.tcp import TlsIdentity  # only for ASGI programs

#: Between looks at the files, which cost microseconds. Whoever has just put a certificate in place
#: looks at once whether it is shown.
_LOOK_S: Final = 2.0


class ServedCertificates:
    """Shows clients what `files` hold; with None, a certificate that is made for this machine and
    `host`, and renewed in time. `report` is told of changes.

    Raises ConfigurationError for files that hold no certificate and key.
    """

    def __init__(
        self, files: CertificateFiles | None, host: str, keylog: Path | None, reporter: Reporter
    ) -> None:
        self._renew = None if files else partial(_make, host)
        self._keylog = keylog
        self._reporter = reporter
        self._over_tcp = False
        #: The first files, when the server started.
        self.files = files or _make(host)
        with self._guard():
            #: A program may change it before `begin`, its certificate, too.
            self.configuration = quic_configuration(self.files)
        self._loaded = self.configuration.certificate
        self._pairs: list[CertificatePair] = []
        #: For QUIC; None when the program has brought its own.
        self.for_quic: Certificates | None = None
        #: For TCP; None when nothing is served there.
        self.for_tcp: TlsIdentity | None = None
        #: Called when `for_tcp` has changed.
        self.on_tcp_changed: Callable[[TlsIdentity], None] = lambda _identity: None

    def begin(self, *, over_tcp: bool) -> None:
        """The configuration is as the program wants it. Raises ConfigurationError when no client
        could shake hands with us."""
        self._over_tcp = over_tcp
        if self.configuration.certificate is not self._loaded:
            prove(self.configuration, self.files)
            return
        self._pairs = [CertificatePair(self.files, self._load, self._renew)]
        self.for_quic = Certificates(self._pairs[0].shown.quic)
        self.for_tcp = self._pairs[0].shown.tcp

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
            return Shown(found, tcp.identity_of(files, self._keylog) if self._over_tcp else None)

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        """Other servers may be renewing the files that were made here."""
        if self._renew is None:
            return contextlib.nullcontext()
        return user_state.locked(user_state.state_folder())

    def _show(self) -> None:
        shown = self._pairs[0].shown
        if self.for_quic is not None:
            self.for_quic.certificate = shown.quic
        if shown.tcp is not None:
            self.for_tcp = shown.tcp
            self.on_tcp_changed(shown.tcp)

    def _report_changed(self, pair: CertificatePair) -> None:
        name = str(pair.files.certificate)
        until = pair.shown.quic.leaf.not_valid_after_utc
        self._reporter.event(
            "certificate_changed",
            f"{name} has changed: new clients are shown the new certificate, valid until {until}",
            certificate=name,
            not_after=until.isoformat(),
        )


def _make(host: str) -> CertificateFiles:
    """Make a certificate for this machine, or find the one that is still good."""
    try:
        return user_state.local_certificate(host)
    except OSError as error:
        raise ConfigurationError(f"cannot make a certificate: {error}") from error
