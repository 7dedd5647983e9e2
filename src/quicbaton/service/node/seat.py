"""A place at a UDP port."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation

_NOBODY: Final[Mapping[int, str]] = MappingProxyType({})


class Seat(NamedTuple):
    """A process's place at a port that it may share: a socket, the numbers in the IDs that it
    issues, and the names of the processes at the port, by worker number."""

    sock: socket.socket
    node: int = 0
    worker: int = 0
    workers: Mapping[int, str] = _NOBODY

    @classmethod
    def given(cls, answer: c.Joined | c.SocketPassed, descriptor: int) -> Seat:
        """The seat from the answer of another process of the port, and the descriptor that it
        passed."""
        sock = socket.socket(fileno=descriptor)
        return cls(sock, answer.node, answer.worker, answer.workers)


async def join(other: Path, control: Path) -> Seat:
    """Share the port of the process with that control socket; `control` is to be ours.

    PeerError when it does not answer, CommandFailedError when it refuses.
    """
    with await Conversation.begin(other) as asked:
        return Seat.given(*await asked.ask_for_descriptor(c.Join(str(control)), c.Joined))
