"""Proxying: the owner of a connection sends through the process that gave it away, since its client
talks to an address from which the owner cannot send.

    client ──► source ──── Stray ────► owner
    client ◄── source ◄─ ProxiedTrain ─ owner
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.handoff import CuttingOver
from quicbaton.handoff.messages import ProxiedTrain
from quicbaton.limits import MAX_PROXIED_ADDRESSES
from quicbaton.service.peers.link import Link
from quicbaton.transport.state import Address
from quicbaton.transport.train import Train


class ProxyOutlet:
    """The owner's side: trains go over the handoff's link. Without a link the connection waits, as
    it does while a socket is full; its frames are kept."""

    def __init__(self, machine: CuttingOver, find_link: Callable[[], Link | None]) -> None:
        self._machine = machine
        self._link = find_link
        self._waiting: set[Session] = set()
        self._closed = False

    @property
    def is_full(self) -> bool:
        link = self._link()
        return not self._closed and (link is None or link.is_full)

    @property
    def through(self) -> str:
        """The process that sends for it; empty while there is no link to it."""
        link = self._link()
        return "" if link is None else link.peer_name

    def send(self, train: Train) -> bool:
        link = self._link()
        if link is not None and not self._closed:
            machine = self._machine
            link.send(
                ProxiedTrain(
                    machine.connection_id,
                    machine.handoff_id,
                    train.data,
                    train.segment_bytes,
                    train.remote,
                    train.local,
                    train.ecn,
                )
            )
        return True  # this host does not learn the limits of the other process's interface

    def wait_for_room(self, session: Session) -> None:
        link = self._link()
        if link is not None:
            link.when_drained(session.transmit_soon)
        else:
            self._waiting.add(session)

    def wake(self) -> None:
        """There is a link again."""
        waiting, self._waiting = self._waiting, set()
        for session in waiting:
            session.transmit_soon()

    def close(self) -> None:
        """No process will send for us any more: further trains are lost."""
        self._closed = True
        self.wake()


class ProxiedClient:
    """The source's side: the addresses to which the owner may send through us. A peer must not make
    an open proxy of this process. So they are the client's address at the handoff, the addresses
    that were being validated then, and those from which datagrams have come for the connection
    since. A client with a forged address gets no more than from any server: the owner validates a
    new path before it sends more than three times the bytes that came (RFC 9000 §8).

    An attacker that has seen one of the connection's IDs can send datagrams with it, from any
    number of addresses. Only the owner can tell them from the client's, and it sends nothing there.
    Addresses to which it has sent are therefore kept apart, so that an attacker's cannot displace
    the client's.
    """

    def __init__(
        self, remote: Address, local: Address, others: Iterable[tuple[Address, Address]] = ()
    ) -> None:
        #: Addresses to which the owner has sent, the latest last; and those to which it has not.
        self._used: dict[tuple[Address, Address], None] = {(remote, local): None}
        self._seen: dict[tuple[Address, Address], None] = dict.fromkeys(others)

    def saw(self, datagram: Datagram) -> None:
        """A datagram with the connection's ID has come."""
        path = (datagram.remote, datagram.local)
        if path not in self._used and path not in self._seen:
            _keep_latest(self._seen, path)

    def train(self, train: ProxiedTrain) -> Train | None:
        """The train to send; None when it is not for the client."""
        path = (train.remote, train.local)
        if path in self._used:
            del self._used[path]
        elif path in self._seen:
            del self._seen[path]
        else:
            return None
        _keep_latest(self._used, path)
        return Train(train.data, train.segment, train.remote, train.local, train.ecn)


def _keep_latest(paths: dict[tuple[Address, Address], None], path: tuple[Address, Address]) -> None:
    paths[path] = None
    if len(paths) > MAX_PROXIED_ADDRESSES:
        del paths[next(iter(paths))]
