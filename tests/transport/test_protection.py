"""Packet protection against RFC 9001's vectors, aioquic, itself, and a peer that breaks rules."""

from __future__ import annotations

import msgspec
import pytest
from aioquic.quic.crypto import CryptoError, CryptoPair
from aioquic.tls import CipherSuite
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import InternalError, PeerError, TransportError
from quicbaton.testing import Pair
from quicbaton.transport.frames import AEAD_LIMIT_REACHED, KEY_UPDATE_ERROR, PROTOCOL_VIOLATION
from quicbaton.transport.packets.cipher import KeySchedule, header_key
from quicbaton.transport.packets.protection import PacketProtection, next_keys
from quicbaton.transport.state import NEVER, NONE, Keys, ProtectionState

SUITES = [0x1301, 0x1302, 0x1303]
VERSIONS = [0x00000001, 0x6B3343CF]
DCID = bytes(range(8))
PTO_US = 100_000


def secret_of(cipher: int, name: int) -> bytes:
    return bytes([name]) * (48 if cipher == 0x1302 else 32)


def derive_keys(version: int, cipher: int, secret: bytes) -> tuple[Keys, bytes]:
    """The first generation's keys and header protection key."""
    keys = Keys(secret)
    return keys, header_key(version, cipher, b"", keys)


def make_state(
    cipher: int = 0x1301, version: int = 1, send: int = 1, receive: int = 2
) -> ProtectionState:
    return ProtectionState(
        version=version,
        cipher=cipher,
        send_hp=b"",
        recv_hp=b"",
        send=Keys(secret_of(cipher, send)),
        recv=Keys(secret_of(cipher, receive)),
        previous_recv=None,
        previous_recv_until_us=NEVER,
        send_generation=0,
        recv_generation=0,
        send_first_number=0,
        recv_first_number=0,
        send_acked=False,
        update_allowed_at_us=0,
        sent_with_key=0,
        failed_decryptions=0,
    )


class End:
    """One endpoint: its protection, and the bookkeeping that a connection would do for it."""

    def __init__(self, state: ProtectionState, next_number: int = 0, largest: int = NONE) -> None:
        self.state = state
        self.protection = PacketProtection(state)
        self.next_number = next_number
        self.largest = largest
        self.now_us = 0

    def seal(self, *payloads: bytes, number_length: int = 2) -> list[bytes]:
        first = self.next_number
        self.next_number += len(payloads)
        return self.protection.seal(DCID, first, number_length, list(payloads))

    def open(self, *packets: bytes) -> list[tuple[int, bytes] | None]:
        opened = self.protection.open(packets, len(DCID), self.largest, self.now_us, PTO_US)
        self.largest = max([self.largest, *(found[0] for found in opened if found)])
        return opened

    def update(self) -> None:
        self.protection.update(self.now_us, PTO_US)

    def moved(self) -> End:
        """The same endpoint, from the encoding of its state."""
        encoded = msgspec.msgpack.encode(self.state)
        state = msgspec.msgpack.decode(encoded, type=ProtectionState)
        end = End(state, self.next_number, self.largest)
        end.now_us = self.now_us
        return end


def make_pair(cipher: int = 0x1301, version: int = 1) -> tuple[End, End]:
    return (
        End(make_state(cipher, version, send=1, receive=2)),
        End(make_state(cipher, version, send=2, receive=1)),
    )


def confirm(sender: End, receiver: End) -> None:
    """Exchange a packet each way, the second one acknowledging the first."""
    assert receiver.open(*sender.seal(b"data")) == [(sender.next_number - 1, b"data")]
    assert sender.open(*receiver.seal(b"ack!")) == [(receiver.next_number - 1, b"ack!")]
    sender.protection.on_acked(sender.next_number - 1)


def completed_update(cipher: int = 0x1301) -> tuple[End, End]:
    """A pair whose first end has updated its keys, and the second has followed."""
    ours, peer = make_pair(cipher)
    confirm(ours, peer)
    ours.update()
    confirm(ours, peer)
    peer.protection.on_acked(peer.next_number - 1)
    return ours, peer


# --- RFC 9001 appendix A ----------------------------------------------------------------------

A5_SECRET = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
A5_PACKET = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")
A5_NUMBER = 654360564


def test_keys_are_those_of_rfc_9001_appendix_a5() -> None:
    keys, hp = derive_keys(1, 0x1303, A5_SECRET)
    assert keys == Keys(A5_SECRET)
    assert KeySchedule(1, 0x1303, keys).key_and_iv() == (
        bytes.fromhex("c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8"),
        bytes.fromhex("e0459b3474bdd0e44a41c144"),
    )
    assert hp.hex() == "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4"
    updated = next_keys(1, 0x1303, keys)
    assert (
        updated.secret.hex() == "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9"
    )


def test_keys_are_those_of_rfc_9001_appendix_a1() -> None:
    # The server's Initial secret serves as any other secret of AES-128-GCM and SHA-256.
    secret = bytes.fromhex("3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b")
    keys, hp = derive_keys(1, 0x1301, secret)
    assert [part.hex() for part in KeySchedule(1, 0x1301, keys).key_and_iv()] == [
        "cf3a5331653c364c88f0f379b6067e37",
        "0ac1493ca1905853b0bba03e",
    ]
    assert hp.hex() == "c206b8d9b9f0f37644430b490eeaa314"


def a5_state() -> ProtectionState:
    state = make_state(0x1303)
    state.send = state.recv = Keys(A5_SECRET)
    return state


def test_short_header_packet_of_rfc_9001_appendix_a5_is_sealed() -> None:
    protection = PacketProtection(a5_state())
    assert protection.seal(b"", A5_NUMBER, 3, [b"\x01"]) == [A5_PACKET]


def test_short_header_packet_of_rfc_9001_appendix_a5_is_opened() -> None:
    protection = PacketProtection(a5_state())
    assert protection.open([A5_PACKET], 0, A5_NUMBER - 1, 0, 0) == [(A5_NUMBER, b"\x01")]


@pytest.mark.parametrize(
    ("version", "cipher"), [(1, 0x1304), (0xFF00001D, 0x1301)], ids=["cipher", "version"]
)
def test_unknown_suite_or_version_is_refused(version: int, cipher: int) -> None:
    with pytest.raises(PeerError, match="expected"):
        derive_keys(version, cipher, bytes(32))


# --- aioquic on the other side ----------------------------------------------------------------


def aioquic_pair(cipher: int, version: int) -> CryptoPair:
    pair = CryptoPair()
    pair.send.setup(cipher_suite=CipherSuite(cipher), secret=secret_of(cipher, 2), version=version)
    pair.recv.setup(cipher_suite=CipherSuite(cipher), secret=secret_of(cipher, 1), version=version)
    return pair


def aioquic_seal(pair: CryptoPair, number: int, payload: bytes, first_byte: int = 0x41) -> bytes:
    head = bytes([first_byte | pair.key_phase << 2]) + DCID + (number & 0xFFFF).to_bytes(2, "big")
    return pair.encrypt_packet(head, payload, number)


def aioquic_open(pair: CryptoPair, packet: bytes, expected: int) -> tuple[int, bytes]:
    _, payload, number = pair.decrypt_packet(packet, 1 + len(DCID), expected)
    return number, payload


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cipher", SUITES)
def test_aioquic_and_we_understand_each_other_through_updates_of_both(
    cipher: int, version: int
) -> None:
    ours = End(make_state(cipher, version))
    peer = aioquic_pair(cipher, version)
    number = 0
    for phase in range(5):
        for packet in ours.seal(b"x" * 1300, b"y" * 20, b"zz", b"w" * 700, b"v" * 99):
            expected = ours.next_number
            found, payload = aioquic_open(peer, packet, expected)
            assert found < ours.next_number
            assert payload
        packets = [aioquic_seal(peer, number + i, b"%d answer" % i) for i in range(10)]
        assert ours.open(*packets) == [(number + i, b"%d answer" % i) for i in range(10)]
        number += 10
        ours.protection.on_acked(ours.next_number - 1)
        assert peer.key_phase == ours.state.send_generation & 1 == phase & 1
        assert ours.state.send_generation == ours.state.recv_generation == phase
        ours.now_us += 10 * PTO_US
        if phase % 2:
            peer.update_key()
            assert ours.open(aioquic_seal(peer, number, b"updated")) == [(number, b"updated")]
            number += 1
        else:
            ours.update()


@pytest.mark.parametrize("cipher", SUITES)
def test_aioquic_opens_our_trains(cipher: int) -> None:
    protection = PacketProtection(make_state(cipher))
    payloads = [bytes([i]) * 1327 for i in range(20)] + [b"tail"]
    train = protection.seal_train(DCID, 70_000, 2, payloads, spin=1)
    size = 1 + len(DCID) + 2 + 1327 + 16
    peer = aioquic_pair(cipher, 1)
    for i, payload in enumerate(payloads):
        packet = train[i * size : (i + 1) * size]
        assert packet[0] & 0xE0 == 0x60
        assert aioquic_open(peer, packet, 70_000 + i) == (70_000 + i, payload)


# --- trains and batches -----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    cipher=st.sampled_from(SUITES),
    first=st.one_of(st.integers(0, 1 << 40), st.sampled_from([250, 65_530, (1 << 32) - 3])),
    number_length=st.integers(1, 4),
    payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=20),
    dcid=st.binary(max_size=20),
    spin=st.integers(0, 1),
)
def test_train_equals_packets_sealed_one_by_one_and_opens_to_the_payloads(
    cipher: int, first: int, number_length: int, payloads: list[bytes], dcid: bytes, spin: int
) -> None:
    arguments = (dcid, first, number_length, payloads, spin)
    packets = PacketProtection(make_state(cipher)).seal(*arguments)
    single = PacketProtection(make_state(cipher))
    assert packets == [
        single.seal(dcid, number, number_length, [payload], spin)[0]
        for number, payload in enumerate(payloads, first)
    ]
    assert PacketProtection(make_state(cipher)).seal_train(*arguments) == b"".join(packets)

    opened = PacketProtection(make_state(cipher, send=2, receive=1)).open(
        packets, len(dcid), first - 1, 0, 0
    )
    for number, (payload, found) in enumerate(zip(payloads, opened, strict=True), first):
        assert found is not None
        assert found[0] == number
        assert found[1].lstrip(b"\x00") == payload.lstrip(b"\x00")
        assert found[1].endswith(payload)


@settings(max_examples=100, deadline=None)
@given(
    cipher=st.sampled_from(SUITES),
    order=st.permutations(range(12)),
    forged=st.sets(st.integers(0, 11)),
    short=st.sets(st.integers(0, 11)),
    cut=st.integers(1, 12),
)
def test_batch_opens_to_what_its_packets_open_to(
    cipher: int, order: list[int], forged: set[int], short: set[int], cut: int
) -> None:
    packets = PacketProtection(make_state(cipher)).seal(DCID, 0, 1, [b"payload"] * 12)
    for i in forged:
        packets[i] = packets[i][:-1] + bytes([packets[i][-1] ^ 1])
    for i in short:
        packets[i] = packets[i][:28]
    packets = [packets[i] for i in order][:cut]
    batch = End(make_state(cipher, send=2, receive=1))
    single = End(make_state(cipher, send=2, receive=1))
    expected = [None if i in forged or i in short else (i, b"payload") for i in order[:cut]]
    assert batch.open(*packets) == expected
    assert [single.open(packet)[0] for packet in packets] == expected
    assert batch.state == single.state
    assert batch.state.failed_decryptions == len((forged - short) & set(order[:cut]))


def test_short_payload_is_padded_in_front_of_its_frames() -> None:
    # RFC 9001 §5.4.2. A STREAM frame without a length runs to the packet's end: PADDING behind
    # it would be data.
    ours, peer = make_pair()
    assert peer.open(*ours.seal(b"\x08\x04", number_length=1)) == [(0, b"\x00\x08\x04")]
    assert peer.open(*ours.seal(b"", number_length=4)) == [(1, b"\x00")]


def test_empty_batch_opens_to_nothing() -> None:
    ours, _ = make_pair()
    assert ours.open() == []


@pytest.mark.parametrize("first_byte", [0x01, 0xC1], ids=["fixed bit clear", "long header"])
@pytest.mark.parametrize("count", [1, 9])
def test_packet_without_a_short_headers_first_byte_is_none(first_byte: int, count: int) -> None:
    ours = End(make_state())
    pair = aioquic_pair(0x1301, 1)
    packets = [aioquic_seal(pair, i, b"payload", 0x41) for i in range(count)]
    packets[-1] = bytes([packets[-1][0] ^ 0x41 ^ first_byte]) + packets[-1][1:]
    assert ours.open(*packets)[-1] is None
    assert ours.state.failed_decryptions == 0


@pytest.mark.parametrize("count", [1, 9])
def test_reserved_bits_of_an_authentic_packet_close_the_connection(count: int) -> None:
    # RFC 9000 §17.3.1
    ours = End(make_state())
    pair = aioquic_pair(0x1301, 1)
    packets = [aioquic_seal(pair, i, b"payload", 0x49) for i in range(count)]
    with pytest.raises(TransportError) as raised:
        ours.open(*packets)
    assert raised.value.error_code == PROTOCOL_VIOLATION


@pytest.mark.parametrize("count", [1, 9])
def test_reserved_bits_of_a_forged_packet_are_ignored(count: int) -> None:
    ours, peer = make_pair()
    packets = peer.seal(*[b"payload"] * count)
    packets[0] = bytes([packets[0][0] ^ 0x18]) + packets[0][1:]
    assert ours.open(*packets) == [None] + [(i, b"payload") for i in range(1, count)]
    assert ours.state.failed_decryptions == 1


def test_old_and_new_packet_numbers_are_decoded_around_the_largest() -> None:
    ours, peer = make_pair()
    for number in (100, 220, 300, 350):
        (packet,) = ours.protection.seal(DCID, number, 1, [b"payload"])
        assert peer.open(packet) == [(number, b"payload")]
    (late,) = PacketProtection(make_state()).seal(DCID, 224, 1, [b"late"])
    assert peer.open(late) == [(224, b"late")]


# --- no number twice --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 9, 12])
@pytest.mark.parametrize("seal", ["seal", "seal_train"])
def test_number_that_was_used_is_refused_and_nothing_is_protected(number: int, seal: str) -> None:
    ours, _ = make_pair()
    ours.protection.seal(DCID, 10, 2, [b"payload"] * 3)
    before = msgspec.msgpack.encode(ours.state)
    with pytest.raises(InternalError, match="from 13 on"):
        getattr(ours.protection, seal)(DCID, number, 2, [b"payload"])
    assert msgspec.msgpack.encode(ours.state) == before
    assert ours.protection.seal(DCID, 13, 2, [b"payload"])


def test_number_below_the_first_of_the_present_key_is_refused_after_a_move() -> None:
    ours, _ = make_pair()
    ours.protection.seal(DCID, 10, 2, [b"payload"] * 3)
    for number in (9, 10, 12):
        with pytest.raises(InternalError):
            ours.moved().protection.seal(DCID, number, 2, [b"payload"])


def test_numbers_stay_above_the_floor_across_a_key_update() -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    ours.update()
    with pytest.raises(InternalError):
        ours.protection.seal(DCID, 0, 2, [b"payload"])


def test_numbers_end_at_2_to_the_62() -> None:
    ours, _ = make_pair()
    with pytest.raises(InternalError):
        ours.protection.seal(DCID, (1 << 62) - 1, 4, [b"payload"] * 2)
    assert ours.protection.seal(DCID, (1 << 62) - 1, 4, [b"payload"])


# --- key updates ------------------------------------------------------------------------------


def test_update_waits_for_an_ack_of_the_present_phase() -> None:
    # RFC 9001 §6.1
    ours, peer = make_pair()
    assert not ours.protection.can_update(0)
    with pytest.raises(InternalError):
        ours.update()
    ours.protection.on_acked(5)  # nothing was sent that this could acknowledge
    assert not ours.protection.can_update(0)
    confirm(ours, peer)
    assert ours.protection.can_update(0)
    ours.update()
    assert not ours.protection.can_update(1 << 40)
    ours.protection.on_acked(ours.next_number - 1)  # of the phase before
    assert not ours.protection.can_update(1 << 40)


def test_next_update_waits_three_pto_after_the_ack_that_confirms_the_first() -> None:
    # RFC 9001 §6.5
    ours, peer = make_pair()
    confirm(ours, peer)
    ours.update()
    ours.now_us = 2 * PTO_US
    confirm(ours, peer)
    assert not ours.protection.can_update(5 * PTO_US - 1)
    assert ours.protection.can_update(5 * PTO_US)


def test_update_waits_for_the_peers_answer_to_the_one_before() -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    ours.update()
    ours.seal(b"payload")
    ours.protection.on_acked(ours.next_number - 1)  # by a peer that still uses old keys
    assert not ours.protection.can_update(1 << 40)


def test_peer_follows_an_update_and_counters_start_again() -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    ours.update()
    assert ours.state.send_generation == 1
    assert ours.state.recv_generation == 0
    packets = ours.seal(b"new 1", b"new 2", b"new 3")
    assert (ours.state.send_first_number, ours.state.sent_with_key) == (1, 3)
    assert peer.open(packets[2], packets[0]) == [(3, b"new 3"), (1, b"new 1")]
    assert (peer.state.send_generation, peer.state.recv_generation) == (1, 1)
    assert (peer.state.recv_first_number, peer.state.sent_with_key) == (1, 0)
    assert peer.state.previous_recv_until_us == 3 * PTO_US
    assert ours.open(*peer.seal(b"answer")) == [(1, b"answer")]
    assert (ours.state.send_generation, ours.state.recv_generation) == (1, 1)
    assert ours.state.sent_with_key == 3
    first = make_state()
    # After an update it is kept, since it follows from the first secret only.
    assert ours.state.send_hp == header_key(first.version, first.cipher, b"", first.send)


def test_both_ends_may_update_at_once() -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    confirm(peer, ours)
    ours.update()
    peer.update()
    confirm(ours, peer)
    confirm(peer, ours)
    assert ours.state.send_generation == ours.state.recv_generation == 1
    assert peer.state.send_generation == peer.state.recv_generation == 1


@pytest.mark.parametrize("count", [3, 12])
def test_packets_reordered_around_an_update_are_opened(count: int) -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    old = ours.seal(*[b"old"] * count)
    ours.update()
    new = ours.seal(*[b"new"] * count)
    mixed = [old[0], new[1], old[1], new[0], old[2], new[2], *old[3:], *new[3:]]
    opened = peer.open(*mixed)
    assert None not in opened
    numbers = [found[0] for found in opened if found]
    assert sorted(numbers) == list(range(1, 1 + 2 * count))
    assert peer.state.recv_first_number == 1 + count
    assert peer.state.failed_decryptions == 0


def test_lowest_number_before_an_update_is_not_taken_for_the_new_generations() -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    old = ours.seal(b"old 1", b"old 2")
    ours.update()
    new = ours.seal(b"new 1")
    peer.open(old[0], *new)
    assert peer.state.recv_first_number == 3
    assert peer.open(old[1]) == [(2, b"old 2")]


def test_old_keys_are_forgotten_after_three_pto() -> None:
    # RFC 9001 §6.5
    for late_us, expected in ((3 * PTO_US - 1, [(1, b"late")]), (3 * PTO_US, [None])):
        ours, peer = make_pair()
        confirm(ours, peer)
        late = ours.seal(b"late")
        ours.update()
        peer.open(*ours.seal(b"new"))
        peer.now_us = late_us
        assert peer.open(*late) == expected
        assert (peer.state.previous_recv is None) == (expected == [None])


def test_forged_key_phase_is_not_an_update_and_costs_no_derivation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, peer = make_pair()
    confirm(ours, peer)
    before = peer.state.recv

    def no_derivation(*_: object) -> Keys:
        raise AssertionError("a forged packet cost a key derivation")

    monkeypatch.setattr(KeySchedule, "next_keys", no_derivation)
    for _ in range(20):
        (packet,) = ours.seal(b"payload")
        assert peer.open(bytes([packet[0] ^ 0x04]) + packet[1:]) == [None]
    assert peer.state.failed_decryptions == 20
    assert peer.state.recv is before
    assert peer.state.recv_generation == 0
    assert peer.open(*ours.seal(b"payload")) == [(21, b"payload")]


@pytest.mark.parametrize("count", [1, 9])
def test_forged_packets_around_an_update_open_to_none(count: int) -> None:
    ours, peer = completed_update()
    for flip in (0x04, 0x20):
        packets = ours.seal(*[b"payload"] * count)
        forged = [bytes([packet[0] ^ flip]) + packet[1:] for packet in packets]
        assert peer.open(*forged) == [None] * count
        assert peer.open(*packets) == [
            (ours.next_number - count + i, b"payload") for i in range(count)
        ]
    assert peer.state.recv_generation == 1


def test_peer_that_updates_twice_without_an_ack_between_is_closed() -> None:
    # RFC 9001 §6.2
    ours, peer = make_pair()
    confirm(ours, peer)
    ours.update()
    peer.open(*ours.seal(b"update"))
    ours.state.recv, ours.state.recv_generation = next_keys(1, 0x1301, ours.state.recv), 1
    ours.state.send_acked, ours.state.update_allowed_at_us = True, 0  # it breaks the rule
    ours.update()
    packets = ours.seal(b"again")
    with pytest.raises(TransportError) as raised:
        peer.open(*packets)
    assert raised.value.error_code == KEY_UPDATE_ERROR
    assert peer.state.recv_generation == 1


def test_old_keys_on_a_higher_number_than_new_ones_close_the_connection() -> None:
    # RFC 9001 §6.4
    ours, peer = make_pair()
    confirm(ours, peer)
    stale = ours.moved()
    ours.update()
    peer.open(*ours.seal(b"new"))
    stale.next_number += 5
    packets = stale.seal(b"old keys, higher number")
    with pytest.raises(TransportError) as raised:
        peer.open(*packets)
    assert raised.value.error_code == KEY_UPDATE_ERROR


def test_new_keys_on_a_lower_number_than_old_ones_close_the_connection() -> None:
    # RFC 9001 §6.4
    ours, peer = make_pair()
    confirm(ours, peer)
    stale = ours.moved()
    stale.next_number += 5
    peer.open(*stale.seal(b"old keys, higher number"))
    ours.update()
    packets = ours.seal(b"new")
    with pytest.raises(TransportError) as raised:
        peer.open(*packets)
    assert raised.value.error_code == KEY_UPDATE_ERROR


def test_updates_follow_one_another() -> None:
    ours, peer = make_pair()
    for generation in range(6):
        confirm(ours, peer)
        confirm(peer, ours)
        confirm(ours, peer)  # only now has the end that followed an update its own ACK
        assert ours.state.recv_generation == peer.state.recv_generation == generation
        ours.now_us = peer.now_us = ours.now_us + 10 * PTO_US
        (ours, peer)[generation % 2].update()


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", [0x1301, 0x1302])
def test_key_must_be_updated_long_before_it_is_worn_out(cipher: int) -> None:
    # RFC 9001 §6.6
    ours, peer = make_pair(cipher)
    confirm(ours, peer)
    assert not ours.protection.must_update
    ours.state.sent_with_key = 1 << 22
    assert ours.protection.must_update
    ours.update()
    assert not ours.protection.must_update


def test_chacha20_key_never_needs_an_update() -> None:
    ours, _ = make_pair(0x1303)
    ours.state.sent_with_key = 1 << 40
    assert not ours.protection.must_update
    assert ours.seal(b"payload")


def test_worn_out_key_closes_the_connection_and_serves_its_close_only() -> None:
    # RFC 9001 §6.6
    ours, _ = make_pair()
    ours.state.sent_with_key = (1 << 23) - 1024
    with pytest.raises(TransportError) as raised:
        ours.seal(b"payload")
    assert raised.value.error_code == AEAD_LIMIT_REACHED
    assert ours.seal(b"close")
    ours.state.sent_with_key = 1 << 23
    with pytest.raises(InternalError):
        ours.seal(b"close")


@pytest.mark.parametrize(("cipher", "limit"), [(0x1301, 1 << 52), (0x1303, 1 << 36)])
def test_too_many_forged_packets_close_the_connection(cipher: int, limit: int) -> None:
    # RFC 9001 §6.6
    ours, _ = make_pair(cipher)
    ours.state.failed_decryptions = limit - 1
    forged = b"\x41" + DCID + bytes(30)
    assert ours.open(forged) == [None]
    with pytest.raises(TransportError) as raised:
        ours.open(forged)
    assert raised.value.error_code == AEAD_LIMIT_REACHED


# --- moving -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cipher", SUITES)
@pytest.mark.parametrize("steps", range(6))
def test_endpoint_moved_in_the_middle_of_an_update_continues_identically(
    cipher: int, version: int, steps: int
) -> None:
    ours, peer = make_pair(cipher, version)
    confirm(ours, peer)
    confirm(peer, ours)
    late = peer.seal(b"late")
    stages = [
        ours.update,
        lambda: peer.open(*ours.seal(b"update")),
        lambda: ours.open(*peer.seal(b"answer", b"answer")),
        lambda: ours.protection.on_acked(ours.next_number - 1),
        lambda: peer.protection.on_acked(peer.next_number - 1),
    ]
    for stage in stages[:steps]:
        stage()
    moved = ours.moved()
    assert moved.state == ours.state
    answers = [*late, *peer.seal(b"more", b"of", b"it")]
    for end in (ours, moved):
        end.now_us += PTO_US
    assert moved.open(*answers) == ours.open(*answers)
    assert moved.seal(b"one", b"two") == ours.seal(b"one", b"two")
    for number in (0, ours.next_number - 1):
        ours.protection.on_acked(number)
        moved.protection.on_acked(number)
    later_us = ours.now_us + 10 * PTO_US
    assert moved.protection.can_update(later_us) == ours.protection.can_update(later_us)
    assert moved.state == ours.state


# --- any order of things ----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    cipher=st.sampled_from(SUITES),
    steps=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["send", "update", "wait", "move"])),
        max_size=40,
    ),
)
def test_honest_ends_understand_each_other_whatever_they_do(
    cipher: int, steps: list[tuple[int, str]]
) -> None:
    ends = list(make_pair(cipher))
    for who, step in steps:
        end, other = ends[who], ends[1 - who]
        if step == "send":
            confirm(end, other)
        elif step == "update" and end.protection.can_update(end.now_us):
            end.update()
        elif step == "move":
            ends[who] = end.moved()
        elif step == "wait":
            end.now_us += 2 * PTO_US
            other.now_us += 2 * PTO_US
        for each in ends:
            assert 0 <= each.state.send_generation - each.state.recv_generation <= 1
            assert each.state.failed_decryptions == 0


def test_aioquic_rejects_what_is_sealed_with_other_keys() -> None:
    # Guards the tests above: the two implementations do not agree by accident.
    ours = End(make_state(send=3))
    (packet,) = ours.seal(b"payload")
    with pytest.raises(CryptoError):
        aioquic_open(aioquic_pair(0x1301, 1), packet, 0)


def test_a_snapshot_leaves_out_header_keys_that_can_be_derived() -> None:
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    state = pair.server.connection._state
    assert state.protection.send_hp
    assert state.protection.recv_hp
    frozen = pair.server.connection.freeze(pair.now)
    assert (frozen.protection.send_hp, frozen.protection.recv_hp) == (b"", b"")
