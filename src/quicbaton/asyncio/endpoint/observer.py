"""Observers: objects that are told what happens to the connections of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from quicbaton.asyncio.endpoint.session import Session


class Observer:
    """Is told what happens to the connections of one process, and what its peers report of
    themselves.

    Override the methods that you need. All observers are told everything, one after the other, even
    if one of them fails. An exception of an observer is logged and changes nothing.
    """

    def on_began(self, session: Session, *, is_new: bool) -> None:
        """The connection is driven here from now on. `is_new`: its handshake was confirmed just
        now; else it came from another process, thawed, or woke."""

    def on_ended(self, session: Session) -> None:
        """The connection is closed and drained."""

    def on_handshake(self, took_us: int) -> None:
        """A handshake is confirmed: so long after the client's first datagram."""

    def on_slept(self, session: Session) -> None:
        """The connection shrinks to its state: another object of it will wake."""

    def on_ids_retired(self, session: Session) -> None:
        """The client has retired connection IDs: told once for all that came together."""

    def on_frozen(self, session: Session) -> None:
        """The connection is no longer driven, and may thaw."""

    def on_given(self, connection_id: bytes) -> None:
        """The connection is another process's. No byte of the commit has been sent yet."""

    def on_resumed(self, connection_id: bytes) -> None:
        """A connection that came from another process has sent its first datagram."""

    def on_blackout(self, connection_id: bytes, blackout_us: int) -> None:
        """The new owner of a connection of ours reports how long its client has waited."""

    def on_settled(self) -> None:
        """One thing less keeps this process from ending: a handoff, a handshake, or requests that
        ran on here after their connection had moved."""

    def on_process_died(self, pid: int) -> None:
        """Another process has exited, and everything that it wrote to us was handled."""

    def on_peer_load(self, peer: str, connections: int, room: int) -> None:
        """The process `peer` has that many connections, and would take `room` more."""

    def keeps_awake(self, session: Session) -> bool:
        """Whether an idle connection may not shrink to its state now."""
        return False


class Observers(Observer):
    """Tells several observers. Only overridden methods are called: a handoff has a dozen calls at
    either end, and most observers need one or two of them."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        #: The overriding methods of observers, by name.
        self._told: dict[str, list[Callable[..., Any]]] = {}
        self._note_overrides()

    def add(self, observer: Observer) -> None:
        """From now on it is told, too."""
        self._observers.append(observer)
        self._note_overrides()

    def remove(self, observer: Observer) -> None:
        """From now on it is told nothing."""
        self._observers = [one for one in self._observers if one is not observer]
        self._note_overrides()

    def _note_overrides(self) -> None:
        self._told = {
            name: [
                getattr(one, name)
                for one in self._observers
                if getattr(type(one), name) is not getattr(Observer, name)
            ]
            for name in _TOLD
        }

    def on_began(self, session: Session, *, is_new: bool) -> None:
        for told in self._told["on_began"]:
            _tell(told, session, is_new=is_new)

    def on_ended(self, session: Session) -> None:
        for told in self._told["on_ended"]:
            _tell(told, session)

    def on_handshake(self, took_us: int) -> None:
        for told in self._told["on_handshake"]:
            _tell(told, took_us)

    def on_slept(self, session: Session) -> None:
        for told in self._told["on_slept"]:
            _tell(told, session)

    def on_ids_retired(self, session: Session) -> None:
        for told in self._told["on_ids_retired"]:
            _tell(told, session)

    def on_frozen(self, session: Session) -> None:
        for told in self._told["on_frozen"]:
            _tell(told, session)

    def on_given(self, connection_id: bytes) -> None:
        for told in self._told["on_given"]:
            _tell(told, connection_id)

    def on_resumed(self, connection_id: bytes) -> None:
        for told in self._told["on_resumed"]:
            _tell(told, connection_id)

    def on_blackout(self, connection_id: bytes, blackout_us: int) -> None:
        for told in self._told["on_blackout"]:
            _tell(told, connection_id, blackout_us)

    def on_settled(self) -> None:
        for told in self._told["on_settled"]:
            _tell(told)

    def on_process_died(self, pid: int) -> None:
        for told in self._told["on_process_died"]:
            _tell(told, pid)

    def on_peer_load(self, peer: str, connections: int, room: int) -> None:
        for told in self._told["on_peer_load"]:
            _tell(told, peer, connections, room)

    def keeps_awake(self, session: Session) -> bool:
        return any(keeps_awake(session) for keeps_awake in self._told["keeps_awake"])


#: The names of the methods that observers can override.
_TOLD: Final = tuple(name for name in vars(Observer) if not name.startswith("_"))


def _tell(told: Callable[..., None], *what: Any, **details: Any) -> None:
    try:
        told(*what, **details)
    except Exception as error:
        # The boundary between observers: a reporter's closed pipe must not affect the roster.
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"{told!r} failed to take note", "exception": error}
        )
