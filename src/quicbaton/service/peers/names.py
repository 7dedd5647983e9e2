"""What processes are called.

On one host a process's name is the path of its control socket. Across hosts it is NODE/WORKER, for
instance `b/0`: whoever is in that slot of that node now. NODE alone means any process of it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

#: As a host name's label (RFC 1123 §2.1), in lower case.
_NODE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SLOT: Final = re.compile(rf"({_NODE.pattern})(?:/(0|[1-9][0-9]{{0,8}}))?")


class Slot(NamedTuple):
    """A place for a process: a worker of a node, or any of it."""

    node: str
    worker: int | None


class Names(NamedTuple):
    """What one process is called: on its host, and across hosts (empty without a cluster)."""

    path: str
    slot: str = ""

    def toward(self, other: str) -> str:
        """What the process `other`, or whoever reads a baton that is for anybody, knows it by."""
        return self.path if other.startswith("/") else self.slot or self.path


def is_node_name(text: str) -> bool:
    """True for what may name a node."""
    return _NODE.fullmatch(text) is not None


def parse_slot(name: str) -> Slot | None:
    """The place that a name across hosts means; None for any other text."""
    match = _SLOT.fullmatch(name)
    if match is None:
        return None
    return Slot(match[1], None if match[2] is None else int(match[2]))


def is_name_of(name: str, node: str) -> bool:
    """True for the name of one process of that node."""
    slot = parse_slot(name)
    return slot is not None and slot.node == node and slot.worker is not None
