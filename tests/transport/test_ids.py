"""Connection IDs: RFC 9000 §5.1, §9.5, §19.15, §19.16."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import RefusedError, TransportError
from quicbaton.limits import MAX_LOCAL_IDS, MAX_PEER_IDS, MAX_PENDING_RETIREMENTS
from quicbaton.transport import frames as f
from quicbaton.transport.frames import PacketPlan, decode_varint
from quicbaton.transport.paths.ids import ConnectionIds, cutover_is_pending, local_cids
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Event,
    IdIssuedEvent,
    IdRetiredEvent,
    IdsState,
    LocalId,
    PeerId,
    SentFrame,
)


class CountingIssuer:
    """Issues numbered IDs; a prefix tells owners apart."""

    def __init__(self, prefix: bytes = b"own") -> None:
        self.prefix = prefix
        self.count = 0

    def issue(self) -> tuple[bytes, bytes]:
        self.count += 1
        return self.prefix + self.count.to_bytes(5, "big"), self.count.to_bytes(16, "big")


def ids_state(limit: int = 8, local: bytes = b"initial0", peer: bytes = b"peers-00") -> IdsState:
    return IdsState(
        local=[LocalId(0, local, bytes(16), False, True)],
        local_next_sequence=1,
        local_sent=1,
        local_retire_prior_to=0,
        local_limit=limit,
        peer=[PeerId(0, peer, b"", [0])],
        peer_retire_prior_to=0,
        peer_seen=[0, 1],
        peer_retire_due=[],
        peer_retire_unacked=[],
        alias=b"first-destination",
        alias_until_us=5_000,
    )


@dataclass
class New:
    """A NEW_CONNECTION_ID frame."""

    sequence: int
    prior: int
    cid: bytes
    token: bytes


@dataclass
class Owner:
    """The object under test with its surroundings."""

    state: IdsState = field(default_factory=ids_state)
    prefix: bytes = b"own"
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = ConnectionIds(self.state, CountingIssuer(self.prefix), self.events)

    def write(self, room: int = 1200) -> tuple[list[New], list[int], list[SentFrame]]:
        """One packet's contents: issued IDs, retired sequence numbers, records."""
        plan = PacketPlan(room)
        self.ids.write_due(plan)
        issued, retired = [], []
        for data in plan.parts:
            kind, at = decode_varint(data, 0)
            sequence, at = decode_varint(data, at)
            if kind == f.RETIRE_CONNECTION_ID:
                retired.append(sequence)
                continue
            assert kind == f.NEW_CONNECTION_ID
            prior, at = decode_varint(data, at)
            cid = data[at + 1 : at + 1 + data[at]]
            issued.append(New(sequence, prior, cid, data[at + 1 + len(cid) :]))
            assert len(issued[-1].token) == 16
        return issued, retired, plan.frames

    def moved(self, prefix: bytes = b"dst") -> "Owner":
        """The next owner, from the bytes of the state."""
        encoded = msgspec.msgpack.encode(self.state)
        return Owner(msgspec.msgpack.decode(encoded, type=IdsState), prefix)


@dataclass
class StrictPeer:
    """A peer that keeps no more IDs than its limit allows, counted as §5.1.1 says."""

    limit: int
    active: set[int] = field(default_factory=lambda: {0})
    known: set[int] = field(default_factory=lambda: {0})
    prior: int = 0

    def receive(self, frame: New) -> list[int]:
        """Returns the sequence numbers it retires."""
        assert frame.prior <= frame.sequence
        self.prior = max(self.prior, frame.prior)
        retired = sorted(n for n in self.active if n < self.prior)
        self.active -= set(retired)
        if frame.sequence not in self.known:
            self.known.add(frame.sequence)
            if frame.sequence < self.prior:
                retired.append(frame.sequence)
            else:
                self.active.add(frame.sequence)
        assert self.active
        assert len(self.active) <= self.limit, "CONNECTION_ID_LIMIT_ERROR"
        return retired


def new(owner: Owner, sequence: int, prior: int = 0) -> None:
    owner.ids.on_new_connection_id(
        sequence, prior, b"peers-%02d" % sequence, bytes([sequence % 256]) * 16
    )


def violation(code: int):
    return pytest.raises(TransportError, check=lambda error: error.error_code == code)


# --- issuing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "active"), [(2, 2), (3, 3), (1 << 40, MAX_LOCAL_IDS)])
def test_as_many_ids_are_issued_as_the_peer_will_hold(limit, active):
    owner = Owner(ids_state(limit))
    owner.ids.replenish()
    owner.ids.replenish()
    assert len(owner.state.local) == active
    issued = [event.cid for event in owner.events if isinstance(event, IdIssuedEvent)]
    assert issued == local_cids(owner.ids._state)[1:active]
    frames, _, records = owner.write()
    assert [frame.cid for frame in frames] == issued
    assert [frame.sequence for frame in frames] == list(range(1, active))
    assert [record[:2] for record in records] == [(0x18, n) for n in range(1, active)]
    assert not owner.ids.has_due()


def test_a_retired_id_is_replaced_and_its_route_goes():
    owner = Owner(ids_state(2))
    owner.ids.replenish()
    owner.write()
    owner.events.clear()
    owner.ids.on_retire_connection_id(0, owner.state.local[1].cid)
    assert [local.sequence for local in owner.state.local] == [1, 2]
    assert owner.events == [IdRetiredEvent(b"initial0"), IdIssuedEvent(owner.state.local[1].cid)]
    owner.ids.on_retire_connection_id(0, owner.state.local[0].cid)  # a repetition is harmless
    assert [local.sequence for local in owner.state.local] == [1, 2]


def test_an_id_never_sent_cannot_be_retired():
    owner = Owner()
    owner.ids.replenish()
    with violation(f.PROTOCOL_VIOLATION):
        owner.ids.on_retire_connection_id(1, b"initial0")
    with violation(f.PROTOCOL_VIOLATION):
        owner.ids.on_retire_connection_id(100, b"initial0")


def test_an_id_cannot_be_retired_by_a_packet_that_carries_it():
    owner = Owner()
    with violation(f.PROTOCOL_VIOLATION):
        owner.ids.on_retire_connection_id(0, b"initial0")


def test_an_owner_with_the_empty_id_issues_none_and_has_none_retired():
    owner = Owner(ids_state(local=b""))
    owner.ids.replenish()
    owner.ids.begin_cutover()
    assert not owner.ids.has_due()
    assert not cutover_is_pending(owner.state)
    with violation(f.PROTOCOL_VIOLATION):
        owner.ids.on_retire_connection_id(0, b"")


def test_a_lost_id_is_sent_again_until_it_is_acknowledged():
    owner = Owner(ids_state(2))
    owner.ids.replenish()
    first, _, records = owner.write()
    owner.ids.on_frame_lost(records[0])
    assert owner.ids.has_due()
    again, _, _ = owner.write()
    assert again == first
    owner.ids.on_frame_acked(records[0])
    owner.ids.on_frame_lost(records[0])  # the second copy: no matter any more
    assert not owner.ids.has_due()


def test_a_copy_counted_as_lost_that_arrives_is_not_sent_again():
    owner = Owner(ids_state(2))
    owner.ids.replenish()
    _, _, records = owner.write()
    owner.ids.on_frame_lost(records[0])
    owner.ids.on_frame_acked(records[0])
    assert owner.write()[0] == []
    assert not owner.ids.has_due()


def test_frames_that_do_not_fit_wait_for_the_next_packet():
    owner = Owner()
    owner.ids.replenish()
    first, _, _ = owner.write(room=40)
    assert [frame.sequence for frame in first] == [1]
    assert owner.state.local_sent == 2
    assert owner.ids.has_due()
    assert [frame.sequence for frame in owner.write()[0]] == [2]


def test_the_alias_is_routed_until_its_time_is_over():
    owner = Owner()
    owner.ids.drop_alias(4_999)
    assert local_cids(owner.ids._state) == [b"initial0", b"first-destination"]
    owner.ids.drop_alias(5_000)
    owner.ids.drop_alias(5_001)
    assert local_cids(owner.ids._state) == [b"initial0"]
    assert owner.events == [IdRetiredEvent(b"first-destination")]


def test_an_alias_without_a_deadline_stays():
    owner = Owner()
    owner.state.alias_until_us = NEVER
    owner.ids.drop_alias(1 << 60)
    assert owner.state.alias


# --- cutover ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2, 3])
def test_a_cutover_replaces_every_id_within_the_peers_limit(limit):
    source = Owner(ids_state(limit))
    source.ids.replenish()
    peer = StrictPeer(limit)
    for frame in source.write()[0]:
        peer.receive(frame)
    owner = source.moved()
    owner.ids.begin_cutover()
    assert cutover_is_pending(owner.state)
    frames, _, _ = owner.write()
    assert len(frames) == limit
    assert {frame.prior for frame in frames} == {limit}
    assert all(frame.cid.startswith(b"dst") for frame in frames)
    retired = [number for frame in frames for number in peer.receive(frame)]
    assert sorted(retired) == list(range(limit))
    for number in retired:
        assert cutover_is_pending(owner.state)
        owner.ids.on_retire_connection_id(number, frames[0].cid)
    assert not cutover_is_pending(owner.state)
    assert not owner.ids.has_due()
    assert [cid[:3] for cid in local_cids(owner.ids._state)[:-1]] == [b"dst"] * limit


def test_a_second_cutover_is_refused_until_the_first_is_finished():
    owner = Owner(ids_state(2))
    owner.ids.replenish()
    owner.write()
    owner.ids.begin_cutover()
    owner.write()
    before = msgspec.msgpack.encode(owner.state)
    with pytest.raises(RefusedError) as refused:
        owner.ids.begin_cutover()
    assert refused.value.code == "cutover_pending"
    assert msgspec.msgpack.encode(owner.state) == before
    owner.ids.on_retire_connection_id(0, owner.state.local[2].cid)
    with pytest.raises(RefusedError):
        owner.moved().ids.begin_cutover()
    owner.ids.on_retire_connection_id(1, owner.state.local[1].cid)
    owner.ids.begin_cutover()
    assert owner.state.local_retire_prior_to == 4
    assert [frame.prior for frame in owner.write()[0]] == [4, 4]


def test_ids_that_never_left_are_replaced_at_a_cutover():
    source = Owner(ids_state(3))
    source.ids.replenish()
    owner = source.moved()
    unsent = local_cids(owner.ids._state)[1:3]
    owner.ids.begin_cutover()
    assert owner.events[:2] == [IdRetiredEvent(cid) for cid in unsent]
    frames, _, _ = owner.write()
    assert [(frame.sequence, frame.prior) for frame in frames] == [(n, 1) for n in (1, 2, 3)]


def test_an_id_from_before_the_cutover_that_was_lost_is_sent_so_that_it_can_be_retired():
    owner = Owner(ids_state(2))
    owner.ids.replenish()
    _, _, records = owner.write()
    owner.ids.begin_cutover()
    peer = StrictPeer(2)
    retired = [number for frame in owner.write()[0] for number in peer.receive(frame)]
    assert retired == [0]
    owner.ids.on_retire_connection_id(0, owner.state.local[2].cid)
    assert cutover_is_pending(owner.state)
    owner.ids.on_frame_lost(records[0])
    (old,), _, _ = owner.write()
    assert (old.sequence, old.prior) == (1, 0)
    assert peer.receive(old) == [1]
    owner.ids.on_retire_connection_id(1, owner.state.local[1].cid)
    assert not cutover_is_pending(owner.state)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 9), st.lists(st.integers(0, 1 << 20), max_size=60))
def test_no_order_and_no_loss_makes_the_peer_exceed_its_limit(limit, choices):
    """Frames arrive late, twice or after a loss; the peer changes IDs as it likes; owners follow
    one another. The strict peer's own checks are the property."""
    owner = Owner(ids_state(limit))
    owner.ids.replenish()
    peer = StrictPeer(limit)
    network: list[tuple[New, SentFrame]] = []
    retirements: list[int] = []
    for step, choice in enumerate(choices):
        frames, _, records = owner.write(room=40 + choice % 300)
        network += zip(frames, records, strict=True)
        action = choice % 6
        if action in (0, 1) and network:
            frame, record = network[choice % len(network)]  # it may come again later
            retirements += peer.receive(frame)
            owner.ids.on_frame_acked(record)
        elif action == 2 and network:
            owner.ids.on_frame_lost(network.pop(choice % len(network))[1])
        elif action == 3 and retirements:
            owner.ids.on_retire_connection_id(retirements.pop(choice % len(retirements)), b"")
        elif action == 4 and len(peer.active) > 1:
            number = min(peer.active)
            peer.active.remove(number)
            retirements.append(number)
        elif action == 5 and not cutover_is_pending(owner.state):
            owner = owner.moved(b"%03d" % step)
            owner.ids.begin_cutover()
        cids = local_cids(owner.ids._state)
        assert len(set(cids)) == len(cids) <= 2 * MAX_LOCAL_IDS + 1
        # Whatever the peer may still use is routed.
        assert peer.active <= {local.sequence for local in owner.state.local}


# --- the peer's IDs -----------------------------------------------------------------------------


def test_the_same_frame_again_is_no_error():
    owner = Owner()
    new(owner, 1)
    new(owner, 1)
    assert [known.sequence for known in owner.state.peer] == [0, 1]


def test_a_repetition_of_a_retired_id_is_not_retired_twice():
    owner = Owner()
    new(owner, 1, 1)
    assert owner.write()[1] == [0]
    new(owner, 2, 2)
    assert owner.write()[1] == [1]
    new(owner, 1, 1)
    assert owner.write()[1] == []


@pytest.mark.parametrize(
    ("sequence", "cid", "token"),
    [
        (1, b"another!", bytes([1]) * 16),  # one number, two IDs
        (2, b"peers-01", bytes([1]) * 16),  # one ID, two numbers
        (1, b"peers-01", bytes([9]) * 16),  # one ID, two tokens
        (0, b"another!", bytes(16)),
    ],
)
def test_contradicting_ids_are_a_violation(sequence, cid, token):
    owner = Owner()
    new(owner, 1)
    with violation(f.PROTOCOL_VIOLATION):
        owner.ids.on_new_connection_id(sequence, 0, cid, token)


def test_retire_prior_to_above_the_sequence_number_is_an_encoding_error():
    with violation(f.FRAME_ENCODING_ERROR):
        new(Owner(), 1, 2)


@pytest.mark.parametrize("length", [0, 21])
def test_an_id_of_no_or_more_than_twenty_bytes_is_an_encoding_error(length):
    with violation(f.FRAME_ENCODING_ERROR):
        Owner().ids.on_new_connection_id(1, 0, bytes(length), bytes(16))


def test_a_peer_with_the_empty_id_must_not_issue_ids():
    with violation(f.PROTOCOL_VIOLATION):
        new(Owner(ids_state(peer=b"")), 1)


def test_more_active_ids_than_our_limit_are_an_error():
    owner = Owner()
    for sequence in range(1, MAX_PEER_IDS):
        new(owner, sequence)
    with violation(f.CONNECTION_ID_LIMIT_ERROR):
        new(owner, MAX_PEER_IDS)


def test_the_limit_counts_what_is_left_after_retiring():
    owner = Owner()
    for sequence in range(1, MAX_PEER_IDS):
        new(owner, sequence)
    new(owner, MAX_PEER_IDS, 1)
    assert len(owner.state.peer) == MAX_PEER_IDS


def test_a_smaller_retire_prior_to_has_no_effect():
    owner = Owner()
    new(owner, 3, 3)
    new(owner, 4, 1)
    assert owner.state.peer_retire_prior_to == 3
    assert [known.sequence for known in owner.state.peer] == [3, 4]


def test_an_id_below_retire_prior_to_is_retired_when_it_comes_late():
    owner = Owner()
    new(owner, 3, 3)
    assert owner.write()[1] == [0]
    new(owner, 2, 0)
    assert owner.write()[1] == [2]
    assert [known.sequence for known in owner.state.peer] == [3]


def test_a_path_goes_on_with_a_fresh_id_when_its_own_must_be_retired():
    owner = Owner()
    assert owner.ids.id_of_path(0).sequence == 0
    new(owner, 1, 1)
    assert owner.ids.take_spare_for_path(0).sequence == 1
    assert owner.write()[1] == [0]


def test_retirements_are_sent_again_when_lost_and_forgotten_when_acknowledged():
    owner = Owner()
    new(owner, 1, 1)
    _, _, (record,) = owner.write()
    assert owner.state.peer_retire_unacked == [0]
    owner.ids.on_frame_lost(record)
    assert owner.write()[1] == [0]
    owner.ids.on_frame_acked(record)
    owner.ids.on_frame_lost(record)
    assert not owner.ids.has_due()
    assert owner.state.peer_retire_unacked == []


def test_a_peer_that_never_acknowledges_retirements_is_stopped():
    owner = Owner()
    with violation(f.CONNECTION_ID_LIMIT_ERROR):
        for sequence in range(1, 1000):
            new(owner, sequence, sequence)
            owner.write()
    assert len(owner.state.peer_retire_unacked) <= MAX_PENDING_RETIREMENTS


def test_a_peer_that_skips_sequence_numbers_is_stopped():
    owner = Owner()
    with violation(f.CONNECTION_ID_LIMIT_ERROR):
        for sequence in range(2, 2000, 2):
            new(owner, sequence, sequence)
            for record in owner.write()[2]:
                owner.ids.on_frame_acked(record)
    assert len(owner.state.peer_seen) <= 2 * (MAX_PENDING_RETIREMENTS + 2)


def test_each_path_has_an_id_of_its_own_while_there_are_spares():
    owner = Owner()
    new(owner, 1)
    assert owner.ids.id_of_path(7) is None
    assert owner.ids.take_spare_for_path(7).sequence == 1
    assert owner.ids.id_of_path(7).sequence == 1
    assert owner.ids.id_of_path(0).sequence == 0
    assert owner.ids.take_spare_for_path(8) is None
    new(owner, 2)
    assert owner.ids.take_spare_for_path(8).sequence == 2


def test_a_shared_id_is_retired_with_the_last_path_that_uses_it():
    owner = Owner()
    new(owner, 1)
    assert owner.ids.share(0, 5).sequence == 0
    assert not owner.ids.has_own(0)
    owner.ids.release_path(0)
    assert owner.ids.has_own(5)
    assert not owner.ids.has_due()
    owner.ids.release_path(5)
    assert owner.write()[1] == [0]


def test_the_last_id_is_kept_for_another_path():
    owner = Owner()
    owner.ids.release_path(0, keep=True)
    assert not owner.ids.has_due()
    assert owner.ids.take_spare_for_path(1).sequence == 0


def test_the_empty_id_serves_every_path_and_is_never_retired():
    owner = Owner(ids_state(peer=b""))
    for serial in (0, 1, 2):
        assert owner.ids.id_of_path(serial).cid == b""
    assert owner.ids.take_spare_for_path(3).cid == b""
    owner.ids.release_path(0)
    assert owner.ids.share(0, 1).cid == b""
    assert not owner.ids.change_peer_id(0)
    assert not owner.ids.has_due()


def test_a_changed_id_retires_the_one_before():
    owner = Owner()
    assert not owner.ids.change_peer_id(0)
    assert owner.ids.id_of_path(0).sequence == 0
    new(owner, 1)
    assert owner.ids.change_peer_id(0)
    assert owner.ids.id_of_path(0).sequence == 1
    assert owner.write()[1] == [0]


def test_a_forgotten_path_gives_its_id_back():
    owner = Owner()
    new(owner, 1)
    owner.ids.take_spare_for_path(5)
    owner.ids.release_path(5)
    assert owner.write()[1] == [1]


def test_only_tokens_of_ids_in_use_reveal_a_stateless_reset():
    owner = Owner()
    new(owner, 1)
    new(owner, 2)
    assert owner.ids.reset_tokens() == set()  # the handshake's came without one
    owner.ids.change_peer_id(0)
    assert owner.ids.reset_tokens() == {bytes([1]) * 16}
    owner.ids.change_peer_id(0)
    assert owner.ids.reset_tokens() == {bytes([2]) * 16}


def test_everything_due_is_due_for_the_next_owner_too():
    source = Owner()
    source.ids.replenish()
    new(source, 1, 1)
    owner = source.moved()
    assert owner.ids.has_due()
    frames, retired, _ = owner.write()
    assert [frame.cid[:3] for frame in frames] == [b"own"] * (MAX_LOCAL_IDS - 1)
    assert retired == [0]
    assert owner.state.peer[0].path == NONE
