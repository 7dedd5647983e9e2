"""Transfers across moves: the peer and the application see the same as without."""

from __future__ import annotations

import itertools

import pytest
from aioquic.tls import CipherSuite

from quicbaton.testing import Conditions, Kind, Pair, move
from quicbaton.transport.packets.cipher import VERSION_1, VERSION_2
from tests.moves.traffic import alive, arrived, reply_bytes, traffic, traffic_pair

BAD = Conditions(delay_s=0.02, jitter_s=0.02, loss=0.05, duplication=0.05, corruption=0.02)


def done(pair: Pair, uploads: dict[int, int], downloads: dict[int, int]) -> bool:
    return arrived(pair.server, uploads) and arrived(pair.client, downloads)


PAIRS = [("quicbaton", "aioquic"), ("aioquic", "quicbaton"), ("quicbaton", "quicbaton")]


@pytest.mark.parametrize(("client", "server"), PAIRS)
@pytest.mark.parametrize("conditions", [Conditions(), BAD], ids=["perfect", "bad"])
def test_streams_of_both_ends_arrive_whole_across_a_move_after_every_event(
    client: Kind, server: Kind, conditions: Conditions
) -> None:
    pair = traffic_pair(client, server, conditions, seed=5)
    up = {traffic(pair.client).open(size): size for size in (0, 1, 3000, 40_000)}
    up_uni = traffic(pair.client).open(20_000, unidirectional=True)
    down = {traffic(pair.server).open(size): size for size in (5, 30_000)}
    down_uni = traffic(pair.server).open(10_000, unidirectional=True)
    uploads = {**up, up_uni: 20_000, **{stream: reply_bytes(stream) for stream in down}}
    downloads = {**down, down_uni: 10_000, **{stream: reply_bytes(stream) for stream in up}}
    ends = itertools.cycle(
        [side for side, kind in (("client", client), ("server", server)) if kind == "quicbaton"]
    )
    for _ in range(5000):
        if done(pair, uploads, downloads):
            break
        assert pair.step()
        old = getattr(pair, next(ends))
        assert move(old) is getattr(pair, old.side)
    assert done(pair, uploads, downloads)
    pair.run(seconds=2)
    assert alive(pair)


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2], ids=["v1", "v2"])
@pytest.mark.parametrize("cipher", list(CipherSuite)[:3], ids=lambda cipher: cipher.name)
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_every_cipher_and_version_moves(
    client: Kind, server: Kind, cipher: CipherSuite, version: int
) -> None:
    pair = traffic_pair(client, server, cipher=cipher, version=version)
    upload = traffic(pair.client).open(150_000)
    for _ in range(4):
        pair.run(seconds=0.015)
        for end in (pair.client, pair.server):
            if end.kind == "quicbaton":
                move(end, transit_s=0.001)
    pair.run(lambda: done(pair, {upload: 150_000}, {upload: reply_bytes(upload)}), seconds=10)
    assert alive(pair)
