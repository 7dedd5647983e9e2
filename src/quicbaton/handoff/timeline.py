"""A handoff's timeline: what one of its two processes saw, and when, as one record.

`quicbaton handoff --json` prints it, qlog files have it, `quicbaton timeline` draws it.
docs/handoff-timeline.md explains each field and each phase.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Seen(StrEnum):
    """The side of the handoff whose process has made the record."""

    BY_SOURCE = "source"
    BY_DESTINATION = "destination"


class Phase(StrEnum):
    """A moment of a handoff, in the usual order. A handoff passes some of them."""

    # As a plain string's, which it equals. Enum's own is a call of Python code, and a client waits
    # while phases are marked.
    __hash__ = str.__hash__

    #: The source begins to send large buffers ahead of the offer, while it serves.
    COPY = "copy"
    #: The source asks whether the destination takes the connection.
    OFFER = "offer"
    ACCEPT = "accept"
    #: The source drives the connection no more.
    FREEZE = "freeze"
    #: The connection's state is captured: `blackout_us` counts from here.
    SNAPSHOT = "snapshot"
    #: The sealed baton is in the link, or in its file.
    BATON = "baton"
    #: The destination has rebuilt the connection and says so, or asks for the claim.
    READY = "ready"
    #: The source has given the socket the last datagram that it sends for the connection.
    LAST_TRAIN = "last_train"
    COMMIT = "commit"
    #: The destination has given the socket the first datagram that it sends.
    FIRST_DATAGRAM = "first_datagram"
    LAST_FORWARD = "last_forward"
    #: The client uses none of the source's connection IDs any more.
    CUTOVER = "cutover"
    #: The source drives the connection again.
    THAW = "thaw"
    #: This process's part in the handoff is over.
    END = "end"


class Timeline(msgspec.Struct, kw_only=True):
    """One handoff of one connection, as the process `pid` saw it.

    Optional fields may be added: readers ignore those that they do not know.
    """

    #: The process's count of the handoffs that it had a part in, from 1 on.
    number: int
    pid: int
    #: The connection's name, hexadecimal.
    connection: str
    seen_by: Seen
    #: The names of the two processes; empty where the process does not know it.
    source: str
    destination: str
    #: The process's wall clock when its part began, UTC.
    began: datetime
    #: The phases: microseconds since `began`, by the host's monotonic clock.
    at_us: dict[str, int]
    #: The size of the sealed baton; 0 before there is one.
    baton_bytes: int = 0
    #: The number of the client's datagrams that went from the source to the destination.
    forwards: int = 0
    #: From `snapshot` to `first_datagram`, as the destination has measured it; across hosts, at
    #: least.
    blackout_us: int | None = None
    #: An `Outcome`, a `Reason` and a sentence; empty while it is open.
    outcome: str = ""
    code: str = ""
    message: str = ""

    def in_order(self) -> Timeline:
        """The timeline with its phases sorted by time."""
        ascending = sorted(self.at_us.items(), key=lambda entry: entry[1])
        return msgspec.structs.replace(self, at_us={str(phase): at for phase, at in ascending})

    @property
    def is_over(self) -> bool:
        """Whether nothing is added to it any more."""
        return Phase.END in self.at_us
