"""Files that `quicbaton` keeps for its user between runs: cluster keys, certificates, control
sockets.

Everything lies in folders of mode 0700. A lock lets processes that start together agree on one key
and, for the same names, one certificate.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from cryptography import x509

from quicbaton.cli.certificate import LOCAL_NAMES, CertificateFiles, replace_self_signed
from quicbaton.cli.control_names import controls_at
from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason

#: A certificate that was made here and expires sooner is replaced.
RENEW_BEFORE: Final = datetime.timedelta(days=2)
_DEFAULT_KEYS: Final = "cluster.keys"
#: Where the service of examples/deploy/systemd has its control sockets, which commands find without
#: its environment.
_MACHINE_FOLDER: Final = Path("/run/quicbaton")


def state_folder() -> Path:
    """The folder of keys and certificates: XDG_STATE_HOME, or ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return _private(Path(base) / "quicbaton")


def runtime_folder() -> Path:
    """The folder of control sockets: in XDG_RUNTIME_DIR; else the one that systemd has made for its
    unit (RuntimeDirectory=); else a folder of the user's own in /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return _private(Path(base) / "quicbaton")
    # systemd.exec(5): several folders are separated by colons.
    made = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if made:
        return _private(Path(made))
    return _private(Path("/tmp") / f"quicbaton-{os.getuid()}")


def load_keys(path: Path | None) -> KeyRing:
    """The cluster keys in `path`; by default the user's own, made on first use."""
    if path is not None:
        return read_keys(path)
    folder = state_folder()
    default = folder / _DEFAULT_KEYS
    with locked(folder):
        if not default.exists():
            _write_private(default, KeyRing(ClusterKey.generate(os.urandom)).encode())
    return read_keys(default)


def default_keys() -> Path | None:
    """The file of the user's own cluster keys; None where no server has made one yet."""
    path = state_folder() / _DEFAULT_KEYS
    return path if path.exists() else None


def read_keys(path: Path) -> KeyRing:
    """The cluster keys in a file that no other user may be able to read."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the keys in {path}: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(
            f"{path} holds keys and others may read it: chmod 600 {path}; if somebody may have"
            " read it, make new keys",
            code=Reason.NOT_PRIVATE,
        )
    return KeyRing.parse(text)


def local_certificate(host: str) -> CertificateFiles:
    """A self-signed certificate for this machine, and for `host` if that is a further name of it.

    Files belong to the names in their certificate: a server with other names leaves them alone and
    has files of its own, `cert-NAMES.pem`. They are replaced when they expire soon.
    """
    own = _own_names(host)
    names = [*LOCAL_NAMES, *own]
    folder = state_folder()
    usual = CertificateFiles(folder / "cert.pem", folder / "key.pem")
    mark = quote("-".join(own), safe=":")
    named = CertificateFiles(folder / f"cert-{mark}.pem", folder / f"key-{mark}.pem")
    now = datetime.datetime.now(datetime.UTC)
    with locked(folder):
        held = _read(usual)
        if held is not None and _is_good(held, names, now):
            return usual
        is_usual = set(own) <= {socket.gethostname()}
        ours = is_usual and (held is None or held.names == set(names))
        files = usual if ours else named
        held = _read(files)
        if held is None or not _is_good(held, names, now):
            replace_self_signed(files, now, names)
    return files


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other commands that change keys or certificates."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def control_sockets(port: int) -> list[Path]:
    """Control sockets of the user's servers at `port`, services first; they need not be alive. With
    those of the machine's service, where it is the user's."""
    return [path for folder in _open_folders() for path in controls_at(folder, port)]


def all_control_sockets() -> list[Path]:
    """Control sockets of all of the user's servers, by name; they need not be alive. With those of
    the machine's service, where it is the user's."""
    paths = [path for folder in _open_folders() for path in folder.glob("*.sock")]
    return sorted(path for path in paths if path.is_socket())


def closed_folder_hint() -> str:
    """What to do where another user's service may be meant; empty where there is none."""
    try:
        uid = _MACHINE_FOLDER.stat().st_uid
        owner = pwd.getpwuid(uid).pw_name
    except (OSError, KeyError):
        return ""
    if uid == os.getuid():
        return ""
    # Root's commands would be turned away, too: a control socket is its user's only.
    return f"; {_MACHINE_FOLDER} is {owner}'s: `sudo -u {owner} quicbaton ...`"


def remove_dead_sockets(port: int) -> None:
    """Remove the control sockets that killed servers at `port` have left. Those of services are
    their supervisors' affair."""
    for path in runtime_folder().glob(f"{port}-*.sock"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            try:
                sock.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                pass  # it listens, and is busy, or is no socket


# --- helpers ----------------------------------------------------------------------------------


def _open_folders() -> list[Path]:
    """The folders with control sockets of this user."""
    own = runtime_folder()
    try:
        is_ours = _MACHINE_FOLDER.stat().st_uid == os.getuid()
    except OSError:
        is_ours = False
    return [own, _MACHINE_FOLDER] if is_ours and own != _MACHINE_FOLDER else [own]


def _private(folder: Path) -> Path:
    """Make the folder, closed to others. Refuse another user's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ConfigurationError(f"cannot make {folder}: {error}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} is not a folder of yours: remove it or have it removed")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def _write_private(path: Path, text: str) -> None:
    """Create a file that others cannot read, complete from its first moment on."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def _own_names(host: str) -> list[str]:
    """The names that this machine, and a server at `host`, have beside those of every machine."""
    with contextlib.suppress(ValueError):
        # As a certificate spells it, which has no zone.
        host = str(ipaddress.ip_address(host.partition("%")[0]))
    names = dict.fromkeys((socket.gethostname(), host))
    return [name for name in names if name not in ("", "::", "0.0.0.0", *LOCAL_NAMES)]


class _Held(NamedTuple):
    """What a certificate says, whose key is there, too."""

    names: set[str]
    not_before: datetime.datetime
    not_after: datetime.datetime


def _read(files: CertificateFiles) -> _Held | None:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None
    if not files.key.exists():
        return None
    names = {str(name.value) for name in extension.value}
    return _Held(names, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _is_good(held: _Held, names: list[str], now: datetime.datetime) -> bool:
    """Whether the certificate has all wanted names and does not expire soon."""
    return held.names >= set(names) and held.not_before <= now < held.not_after - RENEW_BEFORE
