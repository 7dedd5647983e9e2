"""Paths: RFC 9000 §8.2 (validation), §9 (changes of the peer's address), §8.1 (amplification)."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.limits import MAX_PATHS, MAX_PENDING_PATH_RESPONSES, MIN_DATAGRAM_BYTES
from quicbaton.transport import frames as f
from quicbaton.transport.closing import Closing
from quicbaton.transport.frames import PacketPlan
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.paths.path import new_path, validated_path
from quicbaton.transport.paths.paths import INITIAL_PTO_US, UNLIMITED, Paths
from quicbaton.transport.state import (
    NEVER,
    Address,
    ConnectionState,
    IdsState,
    LocalId,
    PathState,
    PeerId,
    TerminatedEvent,
)
from tests.transport.states import connection_state, through_bytes

HOME: Address = ("192.0.2.1", 4000)
REBOUND: Address = ("192.0.2.1", 4001)
AWAY: Address = ("198.51.100.7", 5000)
VICTIM: Address = ("203.0.113.9", 53)
SERVER: Address = ("192.0.2.200", 443)
OVERHEAD = 1 + 8 + 2 + 16
GIVE_UP_US = 3 * INITIAL_PTO_US


class NoIssuer:
    def issue(self) -> tuple[bytes, bytes]:
        raise AssertionError("these tests issue nothing")


@dataclass
class Packet:
    """A packet of path frames that left."""

    remote: Address
    cid: bytes
    size: int
    challenge: bytes = b""
    responses: list[bytes] = field(default_factory=list)
    ping: bool = False


def peer_ids(spares: int, empty: bool) -> list[PeerId]:
    if empty:
        return [PeerId(0, b"", b"", [0])]
    return [PeerId(n, b"peers-%02d" % n, bytes(16), [] if n else [0]) for n in range(spares + 1)]


def server_state(spares: int = 7, empty: bool = False, is_client: bool = False) -> ConnectionState:
    state = connection_state(is_client=is_client)
    state.ids = IdsState(
        local=[LocalId(n, b"own-id-%d" % n, bytes(16), False, True) for n in range(4)],
        local_next_sequence=4,
        local_sent=4,
        local_retire_prior_to=0,
        local_limit=1,
        peer=peer_ids(spares, empty),
        peer_retire_prior_to=0,
        peer_seen=[0, spares + 1],
        peer_retire_due=[],
        peer_retire_unacked=[],
        alias=b"",
        alias_until_us=NEVER,
    )
    state.paths = [new_path(0, HOME, (), validated=True, max_payload_bytes=1452)]
    state.next_path_serial = 1
    return state


class Endpoint:
    """A connection as far as paths go, and the wire."""

    def __init__(self, state: ConnectionState | None = None, seed: int = 0, **options: Any) -> None:
        self.state = state or server_state(**options)
        self.drawn = seed
        self.number = 0
        self.reset = False
        self.ids = ConnectionIds(self.state.ids, NoIssuer(), self.state.events)
        closing = Closing(self.state, self.state.events)
        self.paths = Paths(self.state, self.ids, closing, self.entropy)

    def entropy(self, count: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(count, "big")

    def moved(self) -> "Endpoint":
        return Endpoint(through_bytes(self.state), seed=self.drawn + 1000)

    @property
    def now(self) -> int:
        return self.state.clock_us

    @property
    def remotes(self) -> list[Address]:
        return [path.remote for path in self.state.paths]

    def receive(
        self,
        remote: Address,
        *,
        size: int = 1200,
        probing: bool = False,
        newest: bool = True,
        own: int = 0,
    ) -> PathState:
        """A packet that names our ID number `own`."""
        path = self.paths.on_datagram(remote, (), size)
        assert path is not None
        self.paths.on_local_id(path, b"own-id-%d" % own)
        self.reset = False
        if not probing:
            self.number += newest
            self.reset = self.paths.on_non_probing(path, self.number, is_newest=newest)
        return path

    def receive_again(self, remote: Address, *, own: int = 0) -> bool:
        """The latest packet a second time, from there."""
        return self.paths.on_duplicate(remote, (), b"own-id-%d" % own, 1200, self.number)

    def send(self) -> list[Packet]:
        """The datagrams that leave now, as the sender builds them."""
        packets = []
        for path in self.paths.probes_due():
            allowance = self.paths.allowance_bytes(path)
            peer = self.paths.peer_id(path)
            assert peer is not None
            plan = PacketPlan(min(MIN_DATAGRAM_BYTES, allowance) - OVERHEAD)
            pad = self.paths.probes(path, plan, self.now)
            assert plan.parts
            assert plan.eliciting
            size = MIN_DATAGRAM_BYTES if pad else OVERHEAD + sum(map(len, plan.parts))
            path.sent_bytes += size
            packet = Packet(path.remote, peer.cid, size)
            for part in plan.parts:
                if part[0] == f.PATH_CHALLENGE:
                    assert not packet.challenge
                    packet.challenge = part[1:]
                elif part[0] == f.PATH_RESPONSE:
                    packet.responses.append(part[1:])
                else:
                    packet.ping = part == b"\x01"
            assert size <= allowance
            packets.append(packet)
        return packets

    def pass_time(self, us: int) -> bool:
        self.state.clock_us += us
        timer = self.paths.next_timer_us()
        return timer != NEVER and timer <= self.now and self.paths.on_timer(self.now)

    def answer(self, packets: list[Packet], *remotes: Address) -> None:
        """The peer answers the challenges that went to these addresses."""
        for packet in packets:
            if packet.challenge and packet.remote in remotes:
                self.reset = self.paths.on_response(packet.challenge)


# --- challenges and responses -------------------------------------------------------------------


def test_a_challenge_is_answered_once_and_on_the_path_it_came_on():
    end = Endpoint()
    path = end.receive(AWAY, probing=True)
    end.paths.on_challenge(path, b"question")
    assert end.paths.has_due()
    (packet,) = end.send()
    assert (packet.remote, packet.responses) == (AWAY, [b"question"])
    assert packet.size == 1200
    assert not packet.ping  # data goes nowhere before the client has chosen the path
    assert packet.challenge  # the server asks back
    assert end.send() == []
    assert end.paths.active.remote == HOME


def test_a_challenge_on_the_active_path_is_answered_by_a_non_probing_packet():
    end = Endpoint()
    end.paths.on_challenge(end.receive(HOME), b"question")
    (packet,) = end.send()
    assert packet.responses == [b"question"]
    assert packet.ping
    assert not packet.challenge


def test_a_flood_of_challenges_is_cut():
    end = Endpoint()
    path = end.receive(HOME)
    for number in range(100):
        end.paths.on_challenge(path, number.to_bytes(8, "big"))
    (packet,) = end.send()
    assert len(packet.responses) == MAX_PENDING_PATH_RESPONSES
    assert not end.paths.has_due()


def test_a_response_on_another_path_validates_the_path_that_was_challenged():
    end = Endpoint()
    path = end.receive(AWAY)
    packets = end.send()
    challenge = next(packet.challenge for packet in packets if packet.remote == AWAY)
    end.receive(HOME, newest=False)  # §8.2.3: where the response comes from does not matter
    assert end.paths.on_response(challenge)
    assert path.validated
    assert path.full_size_validated
    assert not end.paths.on_response(challenge)


def test_an_unknown_response_is_ignored():
    end = Endpoint()
    end.receive(AWAY)
    end.send()
    assert not end.paths.on_response(b"guessed!")
    assert not end.paths.active.validated


def test_every_try_carries_fresh_data_and_any_answer_counts():
    end = Endpoint()
    path = end.receive(AWAY)
    first = end.send()
    end.pass_time(INITIAL_PTO_US)
    second = end.send()
    challenges = [packet.challenge for packet in first + second]
    assert len(challenges) == len(set(challenges)) == 4
    end.answer(first, AWAY)
    assert path.validated
    assert path.challenge_at_us == NEVER


def test_an_answer_to_an_unpadded_challenge_proves_the_address_but_not_its_mtu():
    end = Endpoint()
    path = end.receive(AWAY, size=60)
    packets = [packet for packet in end.send() if packet.remote == AWAY]
    assert packets[0].size < 1200
    end.answer(packets, AWAY)
    assert path.validated
    assert not path.full_size_validated
    assert end.paths.allowance_bytes(path) == UNLIMITED
    (second,) = [packet for packet in end.send() if packet.remote == AWAY]
    assert second.size == 1200
    end.answer([second], AWAY)
    assert path.full_size_validated
    assert path.challenge_at_us == NEVER


def test_a_path_that_does_not_carry_1200_bytes_is_given_up():
    end = Endpoint()
    end.receive(AWAY, size=60)
    end.answer(end.send(), HOME, AWAY)
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.remotes == [HOME]


# --- amplification ------------------------------------------------------------------------------


def test_an_unvalidated_address_gets_three_times_what_came_from_it():
    end = Endpoint()
    path = end.receive(VICTIM, size=100)
    assert end.paths.allowance_bytes(path) == 300
    end.send()
    assert end.paths.allowance_bytes(path) == 300 - path.sent_bytes
    end.receive(VICTIM, size=50)
    assert end.paths.allowance_bytes(path) == 450 - path.sent_bytes


def test_nothing_is_due_where_nothing_may_be_sent():
    end = Endpoint()
    path = end.receive(VICTIM, size=21)
    end.answer(end.send(), HOME)
    assert path.challenge_due
    assert not end.paths.has_due()
    end.receive(VICTIM, size=100)
    assert end.paths.has_due()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.integers(21, 1452), st.integers(0, 1_500_000)),
        max_size=60,
    ),
    st.booleans(),
)
def test_no_unvalidated_address_ever_gets_more_than_three_times_its_bytes(steps, empty):
    """A spoofer moves the connection about; only HOME ever answers. The connection survives, is
    never in more places than allowed, uses up no ID, and tells nobody another address."""
    end = Endpoint(empty=empty)
    received: dict[Address, int] = {}
    sent: dict[Address, int] = {}
    for where, size, us in steps:
        remote = HOME if where == 0 else (f"203.0.113.{where}", 53)
        received[remote] = received.get(remote, 0) + size
        path = end.receive(remote, size=size, newest=where % 2 == 0)
        if where % 3 == 2:
            end.paths.on_challenge(path, size.to_bytes(8, "big"))
        packets = end.send()
        for packet in packets:
            sent[packet.remote] = sent.get(packet.remote, 0) + packet.size
        end.answer(packets, HOME)
        end.pass_time(us)
        assert len(end.state.paths) <= MAX_PATHS
        assert HOME in end.remotes
        assert not end.state.closed
        assert not end.state.ids.peer_retire_due
        assert validated_path(end.state).remote == HOME
        end = end.moved()
    for remote, total in sent.items():
        assert remote == HOME or total <= 3 * received[remote]


# --- migration ----------------------------------------------------------------------------------


def test_the_newest_non_probing_packet_moves_the_connection():
    end = Endpoint()
    end.receive(AWAY, own=1)
    assert not end.reset  # §9.4: not before the address is proved
    assert end.paths.active.remote == AWAY
    packets = end.send()
    assert [packet.remote for packet in packets] == [AWAY, HOME]  # §9.3.3: both are asked
    assert all(packet.challenge for packet in packets)
    assert packets[0].cid != packets[1].cid  # §9.5
    assert packets[1].size == 1200
    end.answer(packets, AWAY)
    assert end.reset


def test_a_reordered_or_probing_packet_moves_nothing():
    end = Endpoint()
    end.receive(AWAY, newest=False)
    assert not end.reset
    end.receive(AWAY, probing=True)
    assert end.paths.active.remote == HOME
    assert end.send() == []


def test_a_finished_move_keeps_only_the_path_that_answered():
    end = Endpoint()
    end.receive(AWAY, own=1)
    end.answer(end.send(), AWAY)
    for _ in range(3):
        end.pass_time(INITIAL_PTO_US)
        end.send()
    assert end.remotes == [AWAY]
    assert end.state.ids.peer_retire_due == [0]  # §5.1.2: the old address's ID is retired
    assert end.paths.next_timer_us() == NEVER


def test_a_changed_port_resets_nothing_and_keeps_the_datagram_size():
    end = Endpoint()
    end.paths.active.mtu_bytes = 1452
    end.receive(REBOUND)
    assert not end.reset
    assert end.paths.active.remote == REBOUND
    assert end.paths.active.mtu_bytes == 1452


def test_another_host_starts_at_1200_bytes():
    end = Endpoint()
    end.paths.active.mtu_bytes = 1452
    end.receive(AWAY)
    assert end.paths.active.mtu_bytes == 1200


@pytest.mark.parametrize("own", [0, 1])
def test_a_rebound_client_without_spare_ids_keeps_its_own(own):
    end = Endpoint(spares=0)
    end.receive(REBOUND, own=own)
    packets = end.send()
    assert [(packet.remote, packet.cid) for packet in packets] == [
        (REBOUND, b"peers-00"),
        (HOME, b"peers-00"),
    ]
    end.answer(packets, REBOUND)
    end.pass_time(GIVE_UP_US)
    end.pass_time(GIVE_UP_US)
    assert end.remotes == [REBOUND]
    assert end.state.ids.peer_retire_due == []


def test_a_rebound_that_was_spoofed_hands_the_id_back():
    end = Endpoint(spares=0)
    end.receive(REBOUND)
    end.send()
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.remotes == [HOME]
    assert end.paths.peer_id(end.paths.active).cid == b"peers-00"


def test_a_client_that_moves_on_purpose_is_answered_by_an_id_of_its_own():
    end = Endpoint(spares=0)
    end.receive(AWAY, own=1)
    assert [packet.remote for packet in end.send()] == [HOME]
    assert end.paths.peer_id(end.paths.active) is None
    end.ids.on_new_connection_id(1, 0, b"peers-01", bytes(16))
    assert [(packet.remote, packet.cid) for packet in end.send()] == [(AWAY, b"peers-01")]


def test_a_peer_with_the_empty_id_moves_and_is_asked_with_the_same_id():
    end = Endpoint(empty=True)
    end.receive(AWAY)
    packets = end.send()
    assert [(packet.remote, packet.cid) for packet in packets] == [(AWAY, b""), (HOME, b"")]


def test_the_active_path_takes_the_last_spare_before_a_probe_does():
    end = Endpoint(spares=0)
    path = end.receive(AWAY, probing=True, own=1)
    end.paths.on_challenge(path, b"question")
    end.ids.on_new_connection_id(1, 1, b"peers-01", bytes(16))
    assert end.send() == []
    assert end.ids.id_of_path(0).cid == b"peers-01"


def test_a_spoofed_move_falls_back_to_the_last_validated_path():
    end = Endpoint()
    end.receive(VICTIM)
    end.answer(end.send(), HOME)
    assert not end.pass_time(INITIAL_PTO_US)
    end.send()
    assert not end.pass_time(2 * INITIAL_PTO_US)  # nothing was measured elsewhere
    assert end.remotes == [HOME]
    assert end.paths.active.validated
    assert not end.state.closed


def test_the_old_path_stays_to_fall_back_to_when_neither_answers():
    end = Endpoint()
    end.receive(VICTIM)
    end.send()
    end.pass_time(INITIAL_PTO_US)
    end.send()
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.remotes == [HOME]
    assert not end.state.closed


def test_a_newer_packet_from_the_old_path_undoes_a_spoofed_move():
    end = Endpoint()
    end.receive(VICTIM)
    end.send()
    end.receive(HOME)
    assert not end.reset
    assert end.paths.active.remote == HOME
    assert end.paths.active.challenge_at_us == NEVER  # known already
    end.pass_time(GIVE_UP_US)
    end.pass_time(GIVE_UP_US)
    assert end.remotes == [HOME]


def test_without_a_validated_path_the_connection_ends_in_silence():
    end = Endpoint()
    end.receive(AWAY)
    end.answer(end.send(), AWAY)
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    end.pass_time(GIVE_UP_US)
    assert end.remotes == [AWAY]
    end.paths.active.validated = end.paths.active.full_size_validated = False
    end.receive(REBOUND)
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.state.closed
    assert not end.state.close_due
    assert end.state.closing.reported
    assert isinstance(end.state.events[-1], TerminatedEvent)


def test_a_probed_path_is_validated_before_the_client_moves_there():
    end = Endpoint()
    path = end.receive(AWAY, probing=True)
    end.paths.on_challenge(path, b"question")
    end.answer(end.send(), AWAY)
    end.receive(AWAY)
    assert end.paths.active is path
    assert end.paths.allowance_bytes(path) == UNLIMITED
    assert [packet.remote for packet in end.send()] == [HOME]


def test_nothing_falls_back_to_a_path_that_was_only_probed():
    end = Endpoint()
    probe = end.receive(AWAY, probing=True)
    end.paths.on_challenge(probe, b"question")
    end.answer(end.send(), AWAY)
    end.receive(VICTIM)
    end.send()
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.paths.active.remote == HOME


def test_back_on_a_path_of_unproved_mtu_the_proof_is_asked_for_again():
    end = Endpoint()
    end.receive(AWAY, size=60)
    end.answer(end.send(), AWAY)
    end.receive(VICTIM)
    end.answer(end.send(), HOME)
    away = end.state.paths[1]
    assert away.remote == AWAY
    assert not away.full_size_validated
    away.challenge_at_us = NEVER  # its own validation was settled otherwise
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.paths.active is away
    packets = end.send()
    assert (packets[0].remote, packets[0].size) == (AWAY, 1200)
    end.answer(packets, AWAY)
    assert away.full_size_validated


def test_a_packet_without_room_leaves_the_frames_due():
    end = Endpoint()
    path = end.receive(HOME)
    end.paths.on_challenge(path, b"question")
    plan = PacketPlan(8)
    assert not end.paths.probes(path, plan, end.now)
    assert plan.parts == []
    assert end.paths.has_due()


# --- copies of genuine packets, §9.3.3 ------------------------------------------------------------


def test_a_genuine_packet_behind_its_copy_leads_back():
    end = Endpoint()
    end.receive(VICTIM)
    end.send()
    assert end.receive_again(HOME)
    assert end.paths.active.remote == HOME
    assert not end.receive_again(VICTIM)  # once back, a duplicate says nothing


def test_a_late_duplicate_from_the_old_address_says_nothing():
    end = Endpoint()
    end.receive(HOME)
    end.receive(AWAY)
    assert not end.paths.on_duplicate(HOME, (), b"own-id-0", 1200, end.number - 1)
    assert end.paths.active.remote == AWAY


def test_a_client_that_moves_behind_a_copy_is_asked_and_becomes_active_when_it_answers():
    end = Endpoint()
    end.receive(VICTIM)
    assert not end.receive_again(AWAY)
    assert end.paths.active.remote == VICTIM
    end = end.moved()
    packets = end.send()
    assert {packet.remote for packet in packets} == {VICTIM, AWAY, HOME}
    end.answer(packets, AWAY)
    assert end.paths.active.remote == AWAY
    assert end.reset
    for _ in range(4):
        end.pass_time(INITIAL_PTO_US)
        end.send()
    assert end.remotes == [AWAY]


def test_copies_from_many_addresses_do_not_drive_out_the_client_s_own():
    end = Endpoint()
    for number in range(50):
        for forger in range(MAX_PATHS - 3):
            if forger == 0:
                end.receive((f"203.0.113.{number}", forger))
            else:
                end.receive_again((f"203.0.113.{number}", forger))
        end.receive_again(AWAY)
        assert AWAY in end.remotes
        assert HOME in end.remotes
        if number == 0:
            first = end.send()
        end.send()
    end.answer(first, AWAY)  # a round trip of fifty packets later
    assert validated_path(end.state).remote == AWAY


def test_nothing_is_measured_anew_before_the_address_is_proved():
    end = Endpoint()
    for _ in range(3):
        end.receive(VICTIM)
        assert not end.reset
        end.receive(HOME)
        assert not end.reset
    assert end.state.measured_path == 0
    end.receive(AWAY)
    end.answer(end.send(), AWAY)
    assert end.reset
    assert end.state.measured_path == end.paths.active.serial


# --- the peer's IDs, §9.5 -----------------------------------------------------------------------


def test_a_client_whose_nat_gave_it_another_host_keeps_its_id():
    end = Endpoint(spares=0)
    end.receive(AWAY)
    packets = end.send()
    assert [(packet.remote, packet.cid) for packet in packets] == [
        (AWAY, b"peers-00"),
        (HOME, b"peers-00"),
    ]
    end.answer(packets, AWAY)
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    assert end.remotes == [AWAY]
    assert [(known.sequence, known.paths) for known in end.state.ids.peer] == [(0, [1])]
    assert not end.ids.has_due()


def test_an_id_that_we_asked_the_client_to_change_is_no_sign_of_a_move():
    end = Endpoint(spares=0)
    end.state.ids.local_retire_prior_to = 1  # a cutover
    end.receive(AWAY, own=1)
    packets = end.send()
    assert [packet.cid for packet in packets if packet.remote == AWAY] == [b"peers-00"]


def test_a_client_that_moves_on_purpose_again_and_again_always_gets_an_id():
    end = Endpoint(spares=1)
    following = 2
    for number in range(1, 4):
        before = end.paths.active.remote
        away = (f"198.51.100.{number}", 5000)
        end.receive(away, own=number)
        packets = end.send()
        assert packets[0].remote == away
        end.answer(packets, away, before)
        # The ID of the path before is given back, so the client issues another.
        assert end.state.ids.peer_retire_due == [number - 1]
        end.state.ids.peer_retire_due.clear()
        end.ids.on_new_connection_id(following, 0, b"peers-%02d" % following, bytes(16))
        following += 1
        end = end.moved()
        end.number = number


def test_the_last_id_passes_from_a_path_that_failed_to_the_active_one():
    end = Endpoint(spares=1)
    end.receive(VICTIM, own=1)
    end.send()
    end.receive(AWAY, own=2)  # no ID is left
    assert AWAY not in {packet.remote for packet in end.send()}
    end.pass_time(INITIAL_PTO_US)
    end.pass_time(2 * INITIAL_PTO_US)
    end.receive(AWAY, own=2)
    assert (AWAY, b"peers-01") in {(packet.remote, packet.cid) for packet in end.send()}
    assert not end.ids.has_due()


# --- bounds -------------------------------------------------------------------------------------


def test_a_flood_of_spoofed_addresses_is_bounded_and_spares_the_way_back():
    end = Endpoint()
    for number in range(200):
        end.receive((f"203.0.113.{number}", 53))
        end.send()
        assert len(end.state.paths) <= MAX_PATHS
        assert HOME in end.remotes
    assert len(end.state.ids.peer) == 8  # no ID was used up
    for _ in range(4):
        end.answer(end.send(), HOME)
        end.pass_time(INITIAL_PTO_US)
    assert end.remotes == [HOME]


def test_the_oldest_unused_path_gives_way_to_a_new_one():
    end = Endpoint()
    for number in range(MAX_PATHS + 2):
        end.receive(("203.0.113.1", number), probing=True)
    assert end.remotes == [HOME] + [("203.0.113.1", number) for number in range(3, MAX_PATHS + 2)]
    assert end.state.ids.peer_retire_due == []


def test_a_path_whose_time_is_up_gives_way_though_its_timer_is_late():
    end = Endpoint()
    late, *others = [("203.0.113.1", number) for number in range(MAX_PATHS - 1)]
    end.paths.on_challenge(end.receive(late, probing=True), b"question")
    end.send()
    end.pass_time(INITIAL_PTO_US)
    end.send()
    end.state.clock_us += 2 * INITIAL_PTO_US
    for other in others:
        end.paths.on_challenge(end.receive(other, probing=True), b"question")
        end.send()
    end.receive(late, probing=True)  # the latest to be heard, but it has failed
    end.receive(AWAY, probing=True)
    assert set(end.remotes) == {HOME, AWAY, *others}


def test_of_paths_under_validation_the_one_longest_silent_gives_way():
    end = Endpoint()
    addresses = [("203.0.113.1", number) for number in range(MAX_PATHS - 1)]
    for address in [*addresses, addresses[0]]:
        end.paths.on_challenge(end.receive(address, probing=True), b"question")
        end.send()
    end.receive(AWAY, probing=True)
    assert addresses[0] in end.remotes
    assert addresses[1] not in end.remotes
    assert AWAY in end.remotes


def test_our_own_address_makes_a_path_too():
    end = Endpoint()
    end.paths.active.local = ("192.0.2.100", 443)
    active = end.paths.active
    assert end.paths.on_datagram(HOME, (), 100) is active  # the socket did not tell
    other = end.paths.on_datagram(HOME, ("192.0.2.101", 443), 100)
    assert other is not active
    assert end.state.paths[1] is other


# --- the client's side --------------------------------------------------------------------------


def test_a_client_drops_what_comes_from_an_unknown_server():
    end = Endpoint(is_client=True)
    assert end.paths.on_datagram(AWAY, (), 1200) is None
    assert end.remotes == [HOME]


def test_a_client_whose_socket_changed_stays_on_its_path():
    end = Endpoint(is_client=True)
    end.paths.active.local = ("10.0.0.1", 999)
    path = end.paths.on_datagram(HOME, ("10.0.0.2", 999), 1200)
    assert path is end.paths.active
    assert not end.paths.on_non_probing(path, 1, is_newest=True)
    end.paths.on_challenge(path, b"question")
    (packet,) = end.send()
    assert packet.responses == [b"question"]
    assert not packet.challenge


# --- across a handoff ---------------------------------------------------------------------------


def test_a_validation_goes_on_at_the_next_owner():
    source = Endpoint()
    source.receive(AWAY)
    packets = source.send()
    end = source.moved()
    assert end.send() == []  # the question is out
    end.answer(packets, AWAY)
    assert end.paths.active.validated
    assert end.paths.next_timer_us() != NEVER  # HOME has not answered yet


def test_a_response_owed_is_given_by_the_next_owner():
    source = Endpoint()
    source.paths.on_challenge(source.receive(AWAY, probing=True), b"question")
    (packet,) = source.moved().send()
    assert (packet.remote, packet.responses) == (AWAY, [b"question"])


def test_time_spent_in_transit_is_not_held_against_a_validation():
    source = Endpoint()
    source.receive(AWAY)
    source.send()
    end = source.moved()
    end.state.clock_us += 10 * GIVE_UP_US
    end.paths.rearm(end.now)
    assert end.paths.next_timer_us() == end.now + INITIAL_PTO_US
    assert end.remotes == [AWAY, HOME]


@pytest.mark.parametrize(("rtt_us", "unit_us"), [(20_000, 999_000), (2_000_000, 2_045_000)])
def test_a_slow_path_gets_more_time(rtt_us, unit_us):
    end = Endpoint()
    end.state.recovery.smoothed_rtt_us = rtt_us
    end.receive(AWAY)
    assert end.paths.next_timer_us() == unit_us
