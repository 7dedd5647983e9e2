"""Events that the application has not been told yet, in the order in which they happened.

Received stream data is no event at once: the receiver gathers STREAM frames that continue each
other and hands them on as one (`receiver`). So the queue has the gathered data handed on first,
whenever a part queues an event and whenever the application takes one. No part has to think of it,
and none can get it wrong: all events go through here.

The events themselves are the state's, and move with it. A long queue is taken by its other end: the
last element of a list can be taken at once, while taking the first moves all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from quicbaton import limits
from quicbaton.transport.state import DatagramEvent, Event, StreamDataEvent

#: The length from which on a queue is taken by its other end.
_LONG_QUEUE: Final = 64


class EventSink(Protocol):
    """The part of the queue that other parts need."""

    def append(self, event: Event, /) -> None:
        """Tell the application, after all earlier events."""


class EventQueue:
    """Drives `ConnectionState.events`, the list of that name."""

    __slots__ = ("_events", "_hand_on", "_taken")

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._taken: list[Event] = []  # of a long queue that is being taken, the next one last
        self._hand_on: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._taken) + len(self._events)

    # --- the receiver ---------------------------------------------------------------------------

    def begin_gathering(self, hand_on: Callable[[], None]) -> None:
        """From here on there may be stream data that is no event yet: `hand_on` queues it, and does
        nothing when there is none. It may raise TransportError: the data broke a limit."""
        self._hand_on = hand_on

    def end_gathering(self) -> None:
        """Hand on the rest of the gathered data."""
        hand_on, self._hand_on = self._hand_on, None
        if hand_on is not None:
            hand_on()

    # --- the parts ------------------------------------------------------------------------------

    def append(self, event: Event, /) -> None:
        """Tell the application, after all earlier events."""
        if self._hand_on is None:
            self._events.append(event)
            return
        try:
            self._hand_on()
        finally:
            # Earlier data breaks a limit: that ends the connection, but the event happened.
            self._events.append(event)

    def append_stream_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        """The next bytes of a stream, as they are handed on."""
        events = self._events
        if events:
            last = events[-1]
            if (
                type(last) is StreamDataEvent
                and last.stream_id == stream_id
                and len(last.data) + len(data) <= limits.MAX_JOINED_BYTES
            ):
                # It was not taken yet: an upload's batch becomes a few events, not one a frame.
                last.data += data
                last.end_stream = ended
                return
        events.append(StreamDataEvent(stream_id, data, ended))

    def append_datagram(self, data: bytes) -> None:
        """Queue a DATAGRAM. It is dropped when too many wait already: it is unreliable (RFC 9221
        §5)."""
        self._settle()
        if len(self) < limits.MAX_QUEUED_EVENTS:
            self._events.append(DatagramEvent(data))

    # --- the application ------------------------------------------------------------------------

    def take(self) -> Event | None:
        """The next event; None: there is none."""
        if self._hand_on is not None:
            self._hand_on()
        events, taken = self._events, self._taken
        if len(events) > _LONG_QUEUE and not taken:
            taken += reversed(events)
            events.clear()
        if taken:
            return taken.pop()
        return events.pop(0) if events else None

    def put_first_but_requests(self) -> bool:
        """While events of a client's bidirectional streams, and of DATAGRAM frames, are to wait:
        let `take` return the first event that is neither. False when there is none."""
        events = self.waiting()
        for index, event in enumerate(events):
            # An event of no stream counts as one that does not wait.
            if type(event) is not DatagramEvent and getattr(event, "stream_id", 3) & 3:
                events.insert(0, events.pop(index))
                return True
        return False

    def waiting(self) -> list[Event]:
        """The events that `take` will return. The state has all of them now, also those of a long
        queue that is being taken."""
        self._settle()
        if self._taken:
            self._events[:0] = reversed(self._taken)
            self._taken.clear()
        return self._events

    # --- helpers --------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._hand_on is not None:
            self._hand_on()
