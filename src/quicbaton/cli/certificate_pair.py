"""The two files of a server's certificate, which change while it runs.

Programs that renew certificates write into the files, put new ones in their place, or swap a
symbolic link above them; and they do so for one file after the other. So two files that do not fit
are waited for. Those that still do not fit at the next look are reported, once, and what they held
before is shown on. The files are looked at, not watched: a link in any folder above them may be the
one that is swapped, and nothing needs to be installed.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.user_state import RENEW_BEFORE
from quicbaton.errors import ConfigurationError
from quicbaton.handshake import Certificate, ClientCertificates
from quicbaton.reasons import Reason

if TYPE_CHECKING:
    from quicbaton.asgi.tcp import TlsIdentity  # only for ASGI programs

#: A file that is not there, or cannot be reached.
_NO_FILE: Final[tuple[int, ...]] = ()


class Shown(NamedTuple):
    """What clients are shown: over QUIC, and over TCP if anything is served there; and what they
    are asked for."""

    quic: Certificate
    tcp: TlsIdentity | None
    clients: ClientCertificates | None

    def differs_from(self, other: Shown) -> bool:
        mine, theirs = self.quic, other.quic  # the keys follow
        return (mine.leaf, mine.chain, self.clients) != (theirs.leaf, theirs.chain, other.clients)


class CertificatePair:
    """A pair of files, and what they held when they were last found good.

    `load` reads and proves files, those `beside` them, too; it raises ConfigurationError. `renew`
    makes new ones when the present ones expire soon, and returns their names; None for files that
    are the user's to renew.
    """

    def __init__(
        self,
        files: CertificateFiles,
        load: Callable[[CertificateFiles], Shown],
        renew: Callable[[], CertificateFiles] | None = None,
        beside: Sequence[Path] = (),
    ) -> None:
        self.files = files
        self._beside = beside
        self._load = load
        self._renew = renew
        self._version = self._look_at_files()
        self.shown = load(files)
        #: Files as they were when they could not be used, and when that was reported.
        self._doubtful: tuple[object, ...] = ()
        self._reported: tuple[object, ...] = ()
        self._may_come_true = False

    def look(self) -> bool:
        """Take over what the files hold, if it has changed and is good: whether `shown` has
        changed. Raises ConfigurationError, once, for files that were no good at the last look
        either."""
        version = self._look_at_files()
        is_due = self._renew is not None and self._expires_soon()
        if version == self._version and not is_due:
            self._doubtful = self._reported = ()
            return False
        if version == self._reported and not self._may_come_true:
            return False
        try:
            return self._take(version, is_due=is_due)
        except ConfigurationError as error:
            is_news = version == self._doubtful and version != self._reported
            self._doubtful = version
            if not is_news:
                return False
            self._reported = version
            # Nothing but time changes files that are the same.
            self._may_come_true = is_due or error.code is Reason.CERTIFICATE_DATES
            raise

    # --- helpers --------------------------------------------------------------------------------

    def _take(self, version: tuple[object, ...], *, is_due: bool) -> bool:
        if is_due and self._renew is not None:
            self.files = self._renew()
            version = self._look_at_files()
        loaded = self._load(self.files)
        if self._look_at_files() != version:
            return False  # read in the middle of a change
        self._doubtful = self._reported = ()
        self._version, before, self.shown = version, self.shown, loaded
        return loaded.differs_from(before)

    def _look_at_files(self) -> tuple[object, ...]:
        """What tells these files from others in their place, and from themselves as they were."""
        files = (self.files.certificate, self.files.key, *self._beside)
        return tuple(_look_at(path) for path in files)

    def _expires_soon(self) -> bool:
        now = datetime.datetime.now(datetime.UTC)
        return self.shown.quic.leaf.not_valid_after_utc - now < RENEW_BEFORE


def _look_at(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return _NO_FILE
    # The change time also tells of a file that was written to and given its old modification time.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
