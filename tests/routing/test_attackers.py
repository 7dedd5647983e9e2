"""An attacker without keys that can send to every port: captured datagrams, and floods."""

from __future__ import annotations

import itertools
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import RefusedError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.limits import NO_RESET_LIFETIME_S, RESET_BURST
from quicbaton.routing.id_text import parse_ids
from quicbaton.routing.quic_lb import IdConfigs, IdFactory, Place
from quicbaton.routing.reset import ResetLimiter, build_reset
from quicbaton.routing.route import Drop, Forward, Local, New, Reset, route
from quicbaton.routing.table import RoutingTable

RING = KeyRing(ClusterKey(b"key1", bytes(range(32))))
PLACES = [Place(node, worker) for node in (1, 2) for worker in (0, 1)]
FORMS = ["plaintext", "encrypted", "encrypted:nomask,nonce=8", "encrypted:nonce=13"]
NOW = 1000.0


def short(cid: bytes, size: int = 1200) -> bytes:
    return (b"\x40" + cid).ljust(size, b"\x99")


def initial(cid: bytes) -> bytes:
    return (b"\xc0\x00\x00\x00\x01" + bytes((len(cid),)) + cid + b"\x00\x00").ljust(1200, b"\x99")


class Cluster:
    """Four workers on two nodes. Each knows the others of its node, and those of the other."""

    def __init__(self, form: str) -> None:
        self.ids: IdConfigs = parse_ids(form, RING)
        self.tables: dict[Place, RoutingTable[str]] = {
            place: RoutingTable(self.ids, place, PLACES) for place in PLACES
        }
        entropy = random.Random(5).randbytes
        self.factories = {
            place: IdFactory(self.ids, place.node, place.worker, entropy, RING) for place in PLACES
        }

    def connect(self, place: Place) -> bytes:
        """A connection with one ID."""
        cid, _ = self.factories[place].issue()
        self.tables[place].add(cid, "connection")
        return cid

    def hand_over(self, cid: bytes, source: Place, to: Place, now: float) -> None:
        """The connection moves, and with it its ID, until the client has cut over."""
        self.tables[source].forward(cid, to, now + 60)
        self.tables[to].add(cid, "connection")


@given(
    st.sampled_from(FORMS),
    st.sampled_from(PLACES),
    st.sampled_from(PLACES),
    st.sampled_from(PLACES),
    st.booleans(),
    st.floats(0, NO_RESET_LIFETIME_S),
)
@settings(max_examples=200, deadline=None)
def test_captured_id_of_a_living_connection_provokes_no_reset_anywhere(
    form: str, source: Place, to: Place, target: Place, forwarded: bool, later_s: float
) -> None:
    # RFC 9000 §21.11: a reset that answers the attacker would hand it the victim's token. Whatever
    # worker gets the replay, and as long as the connection may live, nobody answers one.
    cluster = Cluster(form)
    cid = cluster.connect(source)
    if to != source:
        cluster.hand_over(cid, source, to, NOW)
    for table in cluster.tables.values():
        table.expire(NOW + later_s)
    for packet in (short(cid), initial(cid)):
        decision = route(
            packet,
            cluster.tables[target],
            NOW + later_s,
            forwarded=forwarded,
            may_reset=True,
        )
        assert not isinstance(decision, Reset)
        if target == to:
            assert decision == Local("connection")


@pytest.mark.parametrize("form", FORMS)
def test_replay_bounces_between_workers_no_further_than_one_hop(form: str) -> None:
    # A connection that two workers have given to each other, by whatever mistake, and an ID that
    # names a third: each forwards what the socket brought, none what a worker sent.
    cluster = Cluster(form)
    first, second, third, _ = PLACES
    cid = cluster.connect(third)
    cluster.tables[first].forward(cid, second, NOW + 60)
    cluster.tables[second].forward(cid, first, NOW + 60)
    for place, to in ((first, second), (second, first)):
        assert route(short(cid), cluster.tables[place], NOW) == Forward(to)
        assert isinstance(route(short(cid), cluster.tables[place], NOW, forwarded=True), Drop)


@pytest.mark.parametrize("form", FORMS)
def test_node_of_another_cluster_resets_nothing_of_ours(form: str) -> None:
    # The same place in a cluster with other keys: even if it resets, the token is no good.
    cluster = Cluster(form)
    cid = cluster.connect(PLACES[0])
    stranger = KeyRing(ClusterKey(b"key1", bytes(32)))
    table: RoutingTable[str] = RoutingTable(parse_ids(form, stranger), PLACES[0])
    decision = route(short(cid), table, NOW, may_reset=True)
    if isinstance(decision, Reset):
        reset = build_reset(1200, cid, stranger, os.urandom, table.configs)
        assert reset[-16:] != reset_token(RING.active, cid)


@pytest.mark.parametrize("form", FORMS)
def test_flood_of_ids_leaves_no_trace_in_the_table(form: str) -> None:
    cluster = Cluster(form)
    table = cluster.tables[PLACES[0]]
    draw = random.Random(3)
    own = (cluster.factories[PLACES[0]].issue()[0] for _ in itertools.count())
    for _ in range(2000):
        cid = draw.choice([draw.randbytes(draw.randrange(1, 21)), next(own)])
        for packet in (short(cid), initial(cid), draw.randbytes(60)):
            route(packet, table, NOW, may_reset=True)
    assert repr(table) == repr(RoutingTable(cluster.ids, PLACES[0], PLACES))
    assert table.next_expiry() is None


def test_full_table_refuses_new_connections_and_keeps_the_old() -> None:
    ids = parse_ids("plaintext", RING)
    table: RoutingTable[str] = RoutingTable(ids, PLACES[0], max_owners=4)
    factory = IdFactory(ids, *PLACES[0], os.urandom, RING)
    kept = [factory.issue()[0] for _ in range(4)]
    for cid in kept:
        table.add(cid, "connection")
    with pytest.raises(RefusedError) as caught:
        table.add(factory.issue()[0], "another")
    assert caught.value.code == "routing_table_full"
    assert all(route(short(cid), table, NOW) == Local("connection") for cid in kept)


@pytest.mark.parametrize("form", FORMS)
def test_guessed_ids_of_a_dead_worker_get_few_and_ever_smaller_answers(form: str) -> None:
    # IDs of ours that nobody owns are reset, which a flood could turn into a flood of answers.
    cluster = Cluster(form)
    place = PLACES[0]
    limiter = ResetLimiter(NOW)
    answers = 0
    for number in range(5000):
        cid, token = cluster.factories[place].issue()
        size = 43 + number % 1200
        decision = route(short(cid, size), cluster.tables[place], NOW, may_reset=True)
        assert isinstance(decision, Reset)
        if limiter.allow(f"198.51.{number // 250 % 250}.{number % 250}", NOW):
            reset = build_reset(size, cid, RING, os.urandom, cluster.ids)
            assert len(reset) < size
            assert reset[-16:] == token
            answers += 1
    assert answers <= RESET_BURST


def test_ids_that_name_us_by_accident_begin_connections() -> None:
    # The other side of caution: a client's own choice of ID is no attack.
    table = Cluster("plaintext").tables[PLACES[0]]
    draw = random.Random(9)
    for _ in range(500):
        decision = route(initial(draw.randbytes(draw.randrange(8, 21))), table, NOW)
        assert isinstance(decision, New)
