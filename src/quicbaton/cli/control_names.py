"""The names of control sockets in the runtime folder, and what SERVER says of a port's address.

4433.sock                   a service at port 4433
4433-PID.sock               one of its workers, or a single server
127.0.0.1:4433.sock         a further service at that port, on another address
127.0.0.1:4433-PID.sock     one of its workers
"""

from __future__ import annotations

import contextlib
import re
import socket
from glob import escape
from pathlib import Path
from typing import Final, NamedTuple

_SERVICE: Final = re.compile(r"(?:.+:)?\d+")
_PROCESS: Final = re.compile(r"((?:.+:)?\d+)-\d+")
_ADDRESS: Final = re.compile(r"(?:(\[[^\]/]+\]|[^:/]+):)?(\d{1,5})", re.ASCII)
_ANY: Final = frozenset({"::", "0.0.0.0"})


class Where(NamedTuple):
    """A port, at all addresses or at one. `host` is empty or as in a URL, without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Where | None:
        """PORT or HOST:PORT; None for anything else."""
        match = _ADDRESS.fullmatch(text)
        if match is None:
            return None
        return cls((match[1] or "").strip("[]"), int(match[2]))

    @property
    def stem(self) -> str:
        """The name of a service's control socket, without its ending."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if host else str(self.port)

    def is_at(self, address: str) -> bool:
        """Whether a server that is bound to `address` (HOST:PORT) is there and nowhere else."""
        other = Where.parse(address)
        if other is None or other.port != self.port:
            return False
        return other.host == self.host or other.host in _addresses(self.host)

    def is_among(self, address: str) -> bool:
        """Whether a server that is bound to `address` (HOST:PORT) can be reached there."""
        other = Where.parse(address)
        at_all = other is not None and other.port == self.port and other.host in _ANY
        return at_all or self.is_at(address)


def is_service(path: Path) -> bool:
    """Whether it is a supervisor's."""
    return _SERVICE.fullmatch(path.stem) is not None


def service_of(path: Path) -> str:
    """The stem of the service's socket: of its own, or of its worker's; of any other path, its
    stem."""
    match = _PROCESS.fullmatch(path.stem)
    return path.stem if match is None else match[1]


def controls_at(folder: Path, port: int) -> list[Path]:
    """All control sockets of servers at a port, services first. They need not be alive."""
    found = [path for path in folder.glob(f"*{port}*.sock") if path.is_socket()]
    at_port = [path for path in found if service_of(path).rpartition(":")[2] == str(port)]
    return sorted(at_port, key=lambda path: (not is_service(path), path))


def has_processes(folder: Path, where: Where) -> bool:
    """Whether a service has, or had, processes under that name."""
    paths = folder.glob(f"{escape(where.stem)}*.sock")
    return any(service_of(path) == where.stem for path in paths)


def _addresses(host: str) -> set[str]:
    if not host:
        return set()
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        return {str(address[0]) for *_, address in found}
    return set()
