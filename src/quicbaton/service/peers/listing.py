"""Connections of several processes in one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from quicbaton.service.peers import commands as c

_TCP: Final = "tcp"


def at_their_owners(lists: Sequence[c.Connections]) -> list[c.Connections]:
    """The same lists, with each connection in one of them. One that was handed over after its
    source had answered, and before its destination did, is in both: the term, which grows with
    each handoff, tells the owner. Names of TCP connections mean nothing in another process."""
    owners: dict[str, tuple[int, int]] = {}
    for number, listed in enumerate(lists):
        for info in listed.connections:
            if info.state != _TCP:
                known = owners.get(info.connection, (-1, number))
                owners[info.connection] = max(known, (info.term, number))
    return [
        msgspec.structs.replace(
            listed,
            connections=[
                info
                for info in listed.connections
                if info.state == _TCP or owners[info.connection][1] == number
            ],
        )
        for number, listed in enumerate(lists)
    ]
