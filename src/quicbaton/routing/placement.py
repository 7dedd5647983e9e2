"""Which worker gets a new connection: policies, as pure decisions.

The kernel or a balancer has brought a client to some worker, which conducts the handshake. Then a
policy may name another worker, and the connection is handed over to that one: the client keeps its
connection and sees nothing. So a policy may use what no balancer sees, up to the path of the first
request.

A policy of one's own is a class with `choose` (and `wants_path = True` when it decides by the first
request, `elsewhere` when it may name workers of other nodes); `quicbaton serve --placement
MODULE:NAME` uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

#: Least-loaded leaves a connection where it is unless that worker has more than this factor and
#: this many connections above the least loaded one. A handoff is wasted if the next few clients
#: even out the difference, and loads are known with a delay.
_WORTH_FACTOR: Final = 1.1
_WORTH_CONNECTIONS: Final = 4


class Newcomer(Struct, frozen=True):
    """A connection that may be placed. `path` is None before the first request is known."""

    connection_id: bytes
    client: str  # the client's IP address
    server_name: str
    alpn: str
    path: str | None = None


class Member(Struct, frozen=True):
    """A worker on which connections may be placed, by the latest report of its load."""

    name: str  # as `--to` takes it: "NODE/WORKER", or a worker's number on this node
    connections: int
    room: int  # how many more it would take; 0 while it drains


class Placement(Protocol):
    """Chooses a member for a new connection.

    `wants_path` says whether to ask once the first request is known instead of at once.
    """

    wants_path: bool

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        """Return the name of the member that should have it, or None to leave it `here`.

        `members` has those with room, `here` among them unless it drains, in one order everywhere.
        """
        ...


@runtime_checkable
class FarPlacement(Placement, Protocol):
    """A policy that may name workers of other nodes.

    `elsewhere` names these workers, or whole nodes. No other worker of another node is a member.
    """

    @property
    def elsewhere(self) -> Sequence[str]: ...


class RoundRobin:
    """Each member in turn, counted by each worker for itself."""

    wants_path = False

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        if not members:
            return None
        self._turn += 1
        return members[self._turn % len(members)].name


class ConsistentHash:
    """The same member for the same client address, whichever worker the client reached.

    Rendezvous hashing (Thaler, Ravishankar: "Using name-based mappings to increase hit rates",
    1998): of all members the one with the highest hash of (client, member). When a member comes or
    goes, only its own clients change.
    """

    wants_path = False

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        if not members:
            return None
        return max(members, key=lambda member: _weight(newcomer.client, member.name)).name


class LeastLoaded:
    """The member with the fewest connections, if the difference is worth a handoff."""

    wants_path = False

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        if not members:
            return None
        least = min(members, key=lambda member: member.connections)
        for member in members:
            if member.name == here:
                limit = least.connections * _WORTH_FACTOR + _WORTH_CONNECTIONS
                return None if member.connections <= limit else least.name
        return least.name


class ByPath:
    """By the first request's path: the longest matching prefix decides; without a match the
    connection stays.

    A rule names a worker of this node by its number, any worker as NODE/WORKER, or a NODE, which
    means the least loaded of its workers. If the named worker is not known to have room, the
    connection stays: no other worker is taken instead.
    """

    wants_path = True

    def __init__(self, rules: dict[str, str]) -> None:
        """`rules`: from a path prefix to the name of a worker or node."""
        self._rules = sorted(rules.items(), key=lambda rule: -len(rule[0]))

    @property
    def elsewhere(self) -> Sequence[str]:
        """The names in the rules, without workers of this node."""
        return sorted({name for _, name in self._rules if not name.isdigit()})

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        if newcomer.path is None:
            return None
        for prefix, name in self._rules:
            if newcomer.path.startswith(prefix):
                return _find(name, members, here)
        return None


def parse_placement(text: str) -> Placement | None:
    """Read `stay`, `round-robin`, `consistent-hash`, `least-loaded` or `path:/PREFIX=MEMBER,...`.

    None for `stay`: connections live where the kernel brought them.

    Raises:
        ConfigurationError: anything else.
    """
    if text == "stay":
        return None
    if text in _BY_NAME:
        return _BY_NAME[text]()
    if text.startswith("path:"):
        return ByPath(dict(_rule(part) for part in text.removeprefix("path:").split(",")))
    raise ConfigurationError(
        f"a placement is stay, {', '.join(_BY_NAME)}, path:/PREFIX=MEMBER,... or MODULE:NAME, "
        f"got {text!r}",
        code=Reason.PLACEMENT,
    )


_BY_NAME: Final[dict[str, type[RoundRobin | ConsistentHash | LeastLoaded]]] = {
    "round-robin": RoundRobin,
    "consistent-hash": ConsistentHash,
    "least-loaded": LeastLoaded,
}


def _rule(text: str) -> tuple[str, str]:
    prefix, equals, name = text.partition("=")
    if not prefix.startswith("/") or not equals or not name:
        raise ConfigurationError(
            f"a rule is /PREFIX=MEMBER, as in /video=b/1; got {text!r}", code=Reason.PLACEMENT
        )
    return prefix, name


def _find(name: str, members: Sequence[Member], here: str) -> str | None:
    """The member that a rule's `name` means to the worker `here`."""
    node = node_of(here)
    if name.isdigit() and node:
        name = f"{node}/{name}"
    fitting = [member for member in members if name in (member.name, node_of(member.name))]
    if here in (member.name for member in fitting):
        return here
    return min(fitting, key=lambda member: member.connections).name if fitting else None


def node_of(member: str) -> str:
    """The node in a member's name; empty for a number, which means a worker of this node."""
    return member.rpartition("/")[0]


def _weight(client: str, name: str) -> bytes:
    return hashlib.sha256(f"{client}\0{name}".encode()).digest()
