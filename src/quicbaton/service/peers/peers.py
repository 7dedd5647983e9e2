"""The processes with which we have links: their links, and whether they live."""

from __future__ import annotations

from collections.abc import Callable

from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.process_watch import ProcessWatch


class Peer:
    """A process with which we have, had or will have a link, and that is not known to be dead."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.links: set[Link] = set()
        self.watch: ProcessWatch | None = None
        self.exited = False


class Peers:
    """The processes with which we have links, and the links, by name.

    `on_dead(pid, names)` is called once for each process that has exited, and only after all its
    links are lost: everything that it wrote was handled before. All processes of another host's
    node are kept as one, which counts as alive for ever.
    """

    def __init__(self, on_dead: Callable[[int, frozenset[str]], None]) -> None:
        self._on_dead = on_dead
        #: By pid; of another host, by the node's name.
        self._peers: dict[int | str, Peer] = {}
        self._by_name: dict[str, Link] = {}

    def __len__(self) -> int:
        """The number of processes that may live, linked or not."""
        return len(self._peers)

    def knows(self, pid: int) -> bool:
        """Whether this process is not known to be dead, or its last messages are not yet
        handled."""
        return pid in self._peers

    @property
    def links(self) -> list[Link]:
        """Open links, greeted or not."""
        return [link for peer in self._peers.values() for link in peer.links]

    def find(self, name: str) -> Link | None:
        """An open link to the process with this name, or to any process of the node with it."""
        link = self._by_name.get(name)
        if link is None and name in self._peers:
            link = next((link for link in self._peers[name].links if link.is_up), None)
        return link if link is not None and link.is_up else None

    def add(self, link: Link) -> None:
        pid = link.peer_pid
        key = _key(link)
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = Peer()
            if not link.is_remote:
                peer.watch = link.watch(lambda: self._on_exit(pid))
        peer.links.add(link)

    def expect(self, channel: Channel, name: str) -> None:
        """The process at the other end is about to open a link with us, by that name. If it exits
        before, `on_dead` is called all the same."""
        pid = channel.peer.pid
        peer = self._peers.get(pid)
        if peer is None:
            peer = self._peers[pid] = Peer()
            peer.watch = channel.watch(lambda: self._on_exit(pid))
        peer.names.add(name)

    def greeted(self, link: Link) -> None:
        """The other end of a link has told its name."""
        self._by_name[link.peer_name] = link
        peer = self._peers.get(_key(link))
        if peer is not None:
            peer.names.add(link.peer_name)

    def lost(self, link: Link) -> None:
        """A link is at its end, and everything that it brought was handled."""
        if self._by_name.get(link.peer_name) is link:
            del self._by_name[link.peer_name]
        peer = self._peers.get(_key(link))
        if peer is not None:
            peer.links.discard(link)
            self._retire_if_over(link.peer_pid, peer)

    def close(self) -> None:
        """Close all links, and watch no process any more."""
        for link in self.links:
            link.close()
        for peer in self._peers.values():
            if peer.watch is not None:
                peer.watch.close()
        self._peers.clear()
        self._by_name.clear()

    def _on_exit(self, pid: int) -> None:
        peer = self._peers[pid]
        peer.exited = True
        for link in list(peer.links):
            link.read_to_the_end()
        self._retire_if_over(pid, peer)

    def _retire_if_over(self, pid: int, peer: Peer) -> None:
        if peer.exited and not peer.links and self._peers.get(pid) is peer:
            del self._peers[pid]
            self._on_dead(pid, frozenset(peer.names))


def _key(link: Link) -> int | str:
    return link.peer_node or link.peer_pid
