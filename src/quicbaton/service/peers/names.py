"""The names of processes.

On one host a process's name is the path of its control socket. Across hosts it is NODE/WORKER, for
instance `b/0`: the process that is now that worker of that node. NODE alone means any process of
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

#: As the label of a host name (RFC 1123 §2.1), in lower case.
_NODE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PROCESS: Final = re.compile(rf"({_NODE.pattern})(?:/(0|[1-9][0-9]{{0,8}}))?")


class ProcessName(NamedTuple):
    """The name of a process across hosts: a worker of a node, or any process of the node."""

    node: str
    worker: int | None

    def __str__(self) -> str:
        return self.node if self.worker is None else f"{self.node}/{self.worker}"

    @classmethod
    @lru_cache(maxsize=256)  # few processes are named with every connection that moves
    def parse(cls, text: str) -> ProcessName | None:
        """None for any other text, such as the path of a control socket."""
        match = _PROCESS.fullmatch(text)
        if match is None:
            return None
        return cls(match[1], None if match[2] is None else int(match[2]))


@dataclass(frozen=True)
class Names:
    """The names of one process: on its host, and across hosts if it is in a cluster."""

    path: str
    remote: ProcessName | None = None

    def __iter__(self) -> Iterator[str]:
        yield self.path
        if self.remote is not None:
            yield str(self.remote)

    def toward(self, other: str) -> str:
        """The name by which the process `other` knows this one. An empty `other` stands for any
        reader of a baton."""
        return self.path if other.startswith("/") or self.remote is None else str(self.remote)


def is_node_name(text: str) -> bool:
    """Whether the text may name a node."""
    return _NODE.fullmatch(text) is not None


def is_name_of(name: str, node: str) -> bool:
    """Whether `name` is the name of a process of that node."""
    process = ProcessName.parse(name)
    return process is not None and process.node == node and process.worker is not None
