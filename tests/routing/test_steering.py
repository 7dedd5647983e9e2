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
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.steering import (
    BY_HASH,
    Instruction,
    pack_program,
    socket_of,
    steering_program,
)

LAYOUT = IdLayout()


class OutOfRangeLoadError(Exception):
    """The kernel would end the program and return 0."""


def evaluate(program: list[Instruction], packet: bytes) -> int:
    """Run classic BPF, as far as the program uses it."""
    accumulator = at = 0
    for _ in range(len(program)):  # jumps go forward only: it cannot take longer
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case 0x80:
                accumulator = len(packet)
            case 0x30:
                if k >= len(packet):
                    raise OutOfRangeLoadError
                accumulator = packet[k]
            case 0x25:
                at += jt if accumulator > k else jf
            case 0x35:
                at += jt if accumulator >= k else jf
            case 0x45:
                at += jt if accumulator & k else jf
            case 0x94:
                accumulator %= k
            case 0x16:
                return accumulator
            case 0x06:
                return k
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
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


@given(st.binary(max_size=40), st.integers(1, 256))
@settings(max_examples=300, deadline=None)
def test_no_packet_loads_beyond_its_end(packet: bytes, sockets: int) -> None:
    index = evaluate(steering_program(LAYOUT, sockets), packet)
    assert index == BY_HASH or index < sockets


def test_every_length_of_both_headers_is_handled() -> None:
    program = steering_program(LAYOUT, 4)
    cid = LAYOUT.encode(Place(5, 6), b"\xee" * 9)
    for size in range(60):
        # First byte, config and node bytes, worker: five bytes at least.
        expected = 2 if size >= 5 else BY_HASH
        assert evaluate(program, short_packet(cid)[:size]) == expected
        expected = 2 if size >= 10 else BY_HASH
        assert evaluate(program, long_packet(cid)[:size]) == expected


@pytest.mark.parametrize("length", range(21))
def test_client_chosen_ids_too_short_for_a_worker_go_by_hash(length: int) -> None:
    index = evaluate(steering_program(LAYOUT, 4), long_packet(b"\x07" * length))
    assert index == (3 if length > LAYOUT.worker_offset else BY_HASH)


def test_jumps_stay_inside_and_the_last_instruction_returns() -> None:
    program = steering_program(LAYOUT, 4)
    for at, instruction in enumerate(program):
        assert at + 1 + max(instruction.jt, instruction.jf) < len(program) or at == len(program) - 1
    assert program[-1].code == 0x06


def test_packed_form_is_an_array_of_sock_filter() -> None:
    packed = pack_program([Instruction(0x30, 1, 2, 0xDDCCBBAA)])
    assert packed == struct.pack("=H", 0x30) + b"\x01\x02" + struct.pack("=I", 0xDDCCBBAA)
    assert len(pack_program(steering_program(LAYOUT, 4))) == 8 * 15


@pytest.mark.parametrize("sockets", [0, 257])
def test_groups_outside_one_byte_are_refused(sockets: int) -> None:
    with pytest.raises(ConfigurationError):
        steering_program(LAYOUT, sockets)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    return request.param


@pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_REUSEPORT_CBPF is Linux's")
def test_kernel_steers_by_worker_byte(family: socket.AddressFamily) -> None:
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
        attach(group[0], steering_program(LAYOUT, len(group)))

        # Two senders: the choice must not depend on the sender's port.
        senders = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2)]
        for worker in (0, 1, 2, 3, 4, 7, 255):
            cid = LAYOUT.encode(Place(9, worker), b"\xab" * 9)
            client_chosen = bytes((0xE7, 1, 2, worker)) + b"\x55" * 4
            for packet in (
                short_packet(cid, 33),
                long_packet(cid),
                long_packet(client_chosen),
            ):
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
