"""What processes are called.

On one host a process's name is the path of its control socket. Across hosts it is NODE/WORKER, for
instance `b/0`: whoever is that worker of that node now. NODE alone means any process of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

#: As a host name's label (RFC 1123 §2.1), in lower case.
_NODE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PROCESS: Final = re.compile(rf"({_NODE.pattern})(?:/(0|[1-9][0-9]{{0,8}}))?")


class ProcessName(NamedTuple):
    """What a process of a cluster is called across hosts: a worker of a node, or any of it."""

    node: str
    worker: int | None

    def __str__(self) -> str:
        return self.node if self.worker is None else f"{self.node}/{self.worker}"

    @classmethod
    def parse(cls, text: str) -> ProcessName | None:
        """None for any other text, the path of a control socket say."""
        match = _PROCESS.fullmatch(text)
        if match is None:
            return None
        return cls(match[1], None if match[2] is None else int(match[2]))


@dataclass(frozen=True)
class Names:
    """What one process is called: on its host, and across hosts if it is of a cluster."""

    path: str
    remote: ProcessName | None = None

    def __iter__(self) -> Iterator[str]:
        yield self.path
        if self.remote is not None:
            yield str(self.remote)

    def toward(self, other: str) -> str:
        """What the process `other`, or whoever reads a baton that is for anybody, knows it by."""
        return self.path if other.startswith("/") or self.remote is None else str(self.remote)


def is_node_name(text: str) -> bool:
    """True for what may name a node."""
    return _NODE.fullmatch(text) is not None


def is_name_of(name: str, node: str) -> bool:
    """True for the name of one process of that node."""
    process = ProcessName.parse(name)
    return process is not None and process.node == node and process.worker is not None
