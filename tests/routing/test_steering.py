"""The BPF program: in an evaluator of our own, and in the kernel."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError
from quicbaton.routing.id_cipher import IdCipher
from quicbaton.routing.quic_lb import IdConfigs, IdLayout, Place
from quicbaton.routing.steering import (
    BY_HASH,
    Instruction,
    pack_program,
    socket_of,
    steering_program,
)
from quicbaton.routing.worker_mask import WorkerMask

LAYOUT = IdLayout()
CIPHER = IdCipher(b"0123456789abcdef")
ENCRYPTED = IdLayout(config_id=3, nonce_bytes=7, cipher=CIPHER, mask=WorkerMask(b"mask key"))
#: The four kinds of configurations at once, as a cluster that changes from one to another has them.
MIXED = IdConfigs(
    ENCRYPTED,
    [
        LAYOUT,
        IdLayout(config_id=1, node_bytes=3, nonce_bytes=7),
        IdLayout(config_id=4, nonce_bytes=7, cipher=CIPHER, mask=WorkerMask(b"yek ksam")),
        IdLayout(config_id=5, cipher=CIPHER),
    ],
)


class OutOfRangeLoadError(Exception):
    """The kernel would end the program and return 0."""


def evaluate(program: list[Instruction], packet: bytes) -> int:  # noqa: PLR0912 - a table
    """Run classic BPF, as far as the program uses it."""
    accumulator = index = at = 0
    memory: dict[int, int] = {}  # what was never stored must not be read

    def load(start: int, size: int) -> int:
        if start + size > len(packet):
            raise OutOfRangeLoadError
        return int.from_bytes(packet[start : start + size], "big")

    for _ in range(len(program)):  # jumps go forward only: it cannot take longer
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case 0x00:
                accumulator = k
            case 0x80:
                accumulator = len(packet)
            case 0x30:
                accumulator = load(k, 1)
            case 0x50:
                accumulator = load(index + k, 1)
            case 0x40:
                accumulator = load(index + k, 4)
            case 0x60:
                accumulator = memory[k]
            case 0x61:
                index = memory[k]
            case 0x01:
                index = k
            case 0x02:
                memory[k] = accumulator
            case 0x07:
                index = accumulator
            case 0x05:
                at += k
            case 0x15:
                at += jt if accumulator == k else jf
            case 0x35:
                at += jt if accumulator >= k else jf
            case 0x3D:
                at += jt if accumulator >= index else jf
            case 0x45:
                at += jt if accumulator & k else jf
            case 0x04:
                accumulator += k
            case 0x0C:
                accumulator += index
            case 0x14:
                accumulator -= k
            case 0x54:
                accumulator &= k
            case 0x4C:
                accumulator |= index
            case 0x64:
                accumulator <<= k
            case 0x74:
                accumulator >>= k
            case 0xA4:
                accumulator ^= k
            case 0xAC:
                accumulator ^= index
            case 0x94:
                accumulator %= k
            case 0x16:
                return accumulator
            case 0x06:
                return k
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
        accumulator &= 0xFFFF_FFFF
    raise AssertionError("the program does not end")


def short_packet(cid: bytes, size: int = 40) -> bytes:
    return (b"\x40" + cid).ljust(size, b"\x99")


def long_packet(cid: bytes, size: int = 1200) -> bytes:
    return (b"\xc0\x00\x00\x00\x01" + bytes((len(cid),)) + cid + b"\x00").ljust(size, b"\x99")


@given(st.integers(0, 255), st.integers(1, 256), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_worker_byte_picks_the_socket(worker: int, sockets: int, node_bytes: int) -> None:
    layout = IdLayout(node_bytes=node_bytes, nonce_bytes=7)
    cid = layout.encode(Place(5, worker), b"\xee" * 8)
    program = steering_program(layout, sockets)
    for packet in (short_packet(cid), long_packet(cid)):
        assert evaluate(program, packet) == socket_of(worker, sockets) == worker % sockets


@given(st.integers(0, 255), st.integers(1, 256), st.binary(min_size=9, max_size=9))
@settings(max_examples=100, deadline=None)
def test_each_configuration_is_read_its_own_way(
    worker: int, sockets: int, random_bytes: bytes
) -> None:
    program = steering_program(MIXED, sockets)
    for layout in MIXED:
        cid = layout.encode(Place(5, worker), random_bytes[: 1 + layout.nonce_bytes])
        assert MIXED.decode(cid) == (5, worker)
        for packet in (short_packet(cid), long_packet(cid)):
            steered = evaluate(program, packet)
            # Encrypted without a masked worker: the kernel chooses, user space tosses.
            assert steered == (BY_HASH if layout.worker_offset is None else worker % sockets)


@given(
    st.one_of(st.binary(max_size=40), st.binary(max_size=30).map(lambda b: b"\xc0" + bytes(4) + b)),
    st.integers(1, 256),
    st.sampled_from([LAYOUT, ENCRYPTED, MIXED]),
)
@settings(max_examples=500, deadline=None)
def test_no_packet_loads_beyond_its_end(
    packet: bytes, sockets: int, ids: IdLayout | IdConfigs
) -> None:
    index = evaluate(steering_program(ids, sockets), packet)
    assert index == BY_HASH or index < sockets


@pytest.mark.parametrize(("layout", "shown"), [(LAYOUT, 4), (ENCRYPTED, 12)])
def test_every_length_of_both_headers_is_handled(layout: IdLayout, shown: int) -> None:
    program = steering_program(layout, 4)
    cid = layout.encode(Place(5, 6), b"\xee" * (1 + layout.nonce_bytes))
    for size in range(60):
        # A first byte, and so many bytes of the ID that the worker can be read.
        expected = 2 if size >= 1 + shown else BY_HASH
        assert evaluate(program, short_packet(cid)[:size]) == expected
        # The whole ID that a long header announces.
        expected = 2 if size >= 6 + 12 else BY_HASH
        assert evaluate(program, long_packet(cid)[:size]) == expected


@given(st.binary(max_size=20), st.binary(min_size=30, max_size=30))
@settings(max_examples=200, deadline=None)
def test_flight_with_a_client_chosen_id_stays_together(cid: bytes, rest: bytes) -> None:
    # Whatever its bits say by accident: all long headers with this ID go to one socket, or all by
    # the sender's address.
    program = steering_program(MIXED, 4)
    flight = [long_packet(cid), long_packet(cid, 300), long_packet(cid)[:-30] + rest]
    assert len({evaluate(program, packet) for packet in flight}) == 1


@pytest.mark.parametrize("length", range(21))
def test_client_chosen_ids_too_short_for_a_worker_go_by_hash(length: int) -> None:
    index = evaluate(steering_program(LAYOUT, 4), long_packet(b"\x07" * length))
    assert index == (3 if length > 3 else BY_HASH)


@pytest.mark.parametrize("ids", [LAYOUT, ENCRYPTED, MIXED])
def test_jumps_stay_inside_and_the_last_instruction_returns(ids: IdLayout | IdConfigs) -> None:
    program = steering_program(ids, 4)
    for at, instruction in enumerate(program):
        assert max(instruction.jt, instruction.jf) <= 255
        skip = instruction.k if instruction.code == 0x05 else max(instruction.jt, instruction.jf)
        assert at + 1 + skip < len(program) or at == len(program) - 1
    assert program[-1].code in (0x06, 0x16)
    # Linux: 4096 instructions at most, and as many bytes as net.core.optmem_max, 20 KB at least.
    assert len(program) <= 4096
    assert 8 * len(program) + 256 < 20_480


def test_packed_form_is_an_array_of_sock_filter() -> None:
    packed = pack_program([Instruction(0x30, 1, 2, 0xDDCCBBAA)])
    assert packed == struct.pack("=H", 0x30) + b"\x01\x02" + struct.pack("=I", 0xDDCCBBAA)
    assert len(pack_program(steering_program(LAYOUT, 4))) % 8 == 0


@pytest.mark.parametrize("sockets", [0, 257])
def test_groups_outside_one_byte_are_refused(sockets: int) -> None:
    with pytest.raises(ConfigurationError):
        steering_program(LAYOUT, sockets)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    return request.param


@pytest.mark.parametrize("layout", [LAYOUT, ENCRYPTED], ids=["plaintext", "encrypted"])
@pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_REUSEPORT_CBPF is Linux's")
def test_kernel_steers_by_worker(family: socket.AddressFamily, layout: IdLayout) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with ExitStack() as stack:
        group: list[socket.socket] = []
        port = 0
        for _ in range(4):
            member = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                member.bind((host, port))
            except OSError:
                pytest.skip(f"no loopback address {host}")
            member.setblocking(False)
            port = member.getsockname()[1]
            group.append(member)
        attach(group[0], steering_program(layout, len(group)))

        # Two senders: the choice must not depend on the sender's port.
        senders = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2)]
        for worker in (0, 1, 2, 3, 4, 7, 255):
            cid = layout.encode(Place(9, worker), b"\xab" * (1 + layout.nonce_bytes))
            client_chosen = bytes((0xE7, 1, 2, worker)) + b"\x55" * 4
            packets = [short_packet(cid, 33), long_packet(cid)]
            if layout is LAYOUT:
                packets.append(long_packet(client_chosen))
            for packet in packets:
                for sender in senders:
                    sender.sendto(packet, (host, port))
                    # Loopback delivers inside sendto: nothing to wait for.
                    assert group[worker % 4].recv(2048) == packet

        # Garbage too short for a worker byte reaches exactly one socket, always the same.
        reached = set()
        for _ in range(8):
            senders[0].sendto(b"\x40\x00", (host, port))
            hits = [index for index, member in enumerate(group) if receive(member) is not None]
            assert len(hits) == 1
            reached.add(hits[0])
        assert len(reached) == 1


def attach(member: socket.socket, program: list[Instruction]) -> None:
    packed = pack_program(program)
    array = ctypes.create_string_buffer(packed, len(packed))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }, padded natively
    option = struct.pack("@HP", len(program), ctypes.addressof(array))
    so_attach_reuseport_cbpf = 51
    member.setsockopt(socket.SOL_SOCKET, so_attach_reuseport_cbpf, option)


def receive(member: socket.socket) -> bytes | None:
    try:
        return member.recv(2048)
    except BlockingIOError:
        return None
