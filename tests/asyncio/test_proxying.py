"""The addresses from which a process may send, and the processes for which it may proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from quicbaton.asyncio.endpoint.udp import Datagram, UdpSocket, open_udp
from quicbaton.handoff.messages import ProxiedTrain
from quicbaton.limits import MAX_PROXIED_ADDRESSES
from quicbaton.service.moving.proxying import ProxiedClient

CLIENT, LOCAL = ("192.0.2.7", 50_000), ("192.0.2.1", 443)


def asked_train(
    remote: tuple[str | int, ...], local: tuple[str | int, ...] = LOCAL
) -> ProxiedTrain:
    return ProxiedTrain(b"connection", b"h" * 16, bytes(2500), 1200, remote, local, 0)


# --- for whom -------------------------------------------------------------------------------------


def test_a_train_goes_to_the_client_as_it_is() -> None:
    train = ProxiedClient(CLIENT, LOCAL).train(asked_train(CLIENT))
    assert train is not None
    assert (train.segment_bytes, train.remote, train.local) == (1200, CLIENT, LOCAL)
    assert train.data == bytes(2500)


def test_nothing_is_sent_to_strangers_nor_from_another_address() -> None:
    client = ProxiedClient(CLIENT, LOCAL)
    assert client.train(asked_train(("198.51.100.1", 53))) is None
    assert client.train(asked_train(CLIENT, ("192.0.2.2", 443))) is None


def test_an_address_that_was_being_asked_at_the_handoff_can_be_asked_on() -> None:
    asked = (("198.51.100.1", 53), LOCAL)
    assert ProxiedClient(CLIENT, LOCAL, [asked]).train(asked_train(asked[0])) is not None


def test_a_client_that_moves_is_known_at_its_new_address_and_the_oldest_is_forgotten() -> None:
    client = ProxiedClient(CLIENT, LOCAL)
    new = [("192.0.2.7", 50_001 + number) for number in range(MAX_PROXIED_ADDRESSES)]
    for remote in new:
        client.saw(Datagram(b"", remote, LOCAL, 0))
        client.saw(Datagram(b"", remote, LOCAL, 0))
    assert all(client.train(asked_train(remote)) is not None for remote in new)
    assert client.train(asked_train(CLIENT)) is None


def test_forged_datagrams_do_not_displace_the_client() -> None:
    client = ProxiedClient(CLIENT, LOCAL)
    moved = ("192.0.2.8", 50_000)
    for first in (0, 1000):
        for number in range(3 * MAX_PROXIED_ADDRESSES):
            client.saw(Datagram(b"", (f"198.51.100.{number}", first), LOCAL, 0))
        assert client.train(asked_train(CLIENT)) is not None
        client.saw(Datagram(b"", moved, LOCAL, 0))
        assert client.train(asked_train(moved)) is not None
    assert client.train(asked_train(("198.51.100.0", 0))) is None


# --- from where -----------------------------------------------------------------------------------


@contextmanager
def udp(host: str) -> Iterator[UdpSocket]:
    sock = UdpSocket(open_udp(host, 0), lambda _batch: None)
    yield sock
    sock.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_process_sends_from_its_own_port_and_address(host: str) -> None:
    with udp(host) as sock:
        port = sock.address[1]
        assert sock.can_send_from(("127.0.0.1", port))
        assert not sock.can_send_from(("127.0.0.1", int(port) + 1))
        assert not sock.can_send_from(("192.0.2.1", port))
        assert not sock.can_send_from(("::1", port, 0, 0))
        assert not sock.can_send_from(())


async def test_a_process_with_one_address_sends_from_no_other_of_its_host() -> None:
    with udp("127.0.0.1") as sock:
        assert not sock.can_send_from(("127.0.0.2", sock.address[1]))
    with udp("0.0.0.0") as sock:
        assert sock.can_send_from(("127.0.0.2", sock.address[1]))


async def test_a_socket_of_both_families_sends_from_both() -> None:
    with udp("::") as sock:
        port = sock.address[1]
        assert sock.can_send_from(("::1", port, 0, 0))
        assert sock.can_send_from(("::ffff:127.0.0.1", port, 0, 0))
        assert not sock.can_send_from(("::ffff:192.0.2.1", port, 0, 0))
