"""A connection that is handed over while it is listed."""

from __future__ import annotations

from quicbaton.service.peers import commands as c
from quicbaton.service.peers.listing import at_their_owners


def connection(name: str, term: int, state: str = "open") -> c.ConnectionInfo:
    return c.ConnectionInfo(name, state, "", "", "h3", 1.0, 1.0, 0, 0, term, False)


def listed(*connections: c.ConnectionInfo) -> c.Connections:
    return c.Connections(1, "127.0.0.1:4433", 0, 0, 0, 0, 0, 0, list(connections))


def test_a_connection_that_both_ends_of_a_handoff_list_is_at_its_owner() -> None:
    source = listed(connection("aa", 1), connection("bb", 4))
    destination = listed(connection("aa", 2), connection("cc", 1))
    first, second = at_their_owners([source, destination])
    assert first.connections == [connection("bb", 4)]
    assert second.connections == [connection("aa", 2), connection("cc", 1)]
    second, first = at_their_owners([destination, source])
    assert first.connections == [connection("bb", 4)]
    assert second.connections == [connection("aa", 2), connection("cc", 1)]


def test_tcp_connections_of_two_processes_may_have_one_name() -> None:
    lists = [listed(connection("tcp-1", 0, "tcp")) for _ in range(2)]
    assert at_their_owners(lists) == lists
