"""The kernel's share of routing: which worker's socket gets a datagram.

Workers of one host share a UDP port with SO_REUSEPORT. A classic BPF program, attached to the
group with SO_ATTACH_REUSEPORT_CBPF (needs no privilege), returns the index of a socket: the
worker byte of the destination connection ID, modulo the number of sockets. The same byte is used
for every packet, also where a client chose the ID: a client's flight stays together, and a
worker that issues IDs with its own number keeps what it accepted.

What the program sees. The kernel runs it over the UDP payload: `run_bpf_filter` in Linux'
net/core/sock_reuseport.c pulls the transport header off first, so offset 0 is QUIC's first byte
and the length is the datagram's. `test_kernel_steers_by_worker_byte` checks this.

Two answers of the kernel need care. A load beyond the packet ends a classic program with 0, which
would send all garbage to worker 0; therefore every load is preceded by a test of the length. An
index that is not below the number of sockets makes the kernel choose by its hash of addresses and
ports, which keeps a sender together and spreads senders: that is what we return for a datagram
that has no worker byte, too short a one or an ID too short for it.

The index counts sockets in the order in which they joined the group, and Linux moves the last one
into the gap when one closes: sockets must outlive the processes that read them.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from quicbaton.errors import ConfigurationError
from quicbaton.routing.quic_lb import MAX_WORKER, IdLayout

#: Asks the kernel to choose by its hash: no group has so many sockets.
BY_HASH: Final = 0xFFFF_FFFF

# linux/bpf_common.h
_LOAD_BYTE_AT: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LOAD_LENGTH: Final = 0x80  # BPF_LD | BPF_W | BPF_LEN
_JUMP_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_IF_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_MODULO: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_RETURN_A: Final = 0x16  # BPF_RET | BPF_A

_LONG_HEADER_BIT: Final = 0x80
_SHORT_ID_OFFSET: Final = 1
_LONG_ID_LENGTH_OFFSET: Final = 5  # RFC 8999 §5.1: first byte, version, then the ID's length
_LONG_ID_OFFSET: Final = 6


class Instruction(NamedTuple):
    """One classic BPF instruction: `struct sock_filter`."""

    code: int
    jt: int
    jf: int
    k: int


def steering_program(layout: IdLayout, sockets: int) -> list[Instruction]:
    """Return the program that picks one of `sockets` sockets by the worker byte.

    Raises:
        ConfigurationError: `sockets` is not 1 to 256: worker numbers have one byte.
    """
    if not 1 <= sockets <= MAX_WORKER + 1:
        raise ConfigurationError(
            f"a group has 1 to {MAX_WORKER + 1} sockets, got {sockets}", code="sockets"
        )
    worker_offset = layout.worker_offset
    short_worker = _SHORT_ID_OFFSET + worker_offset
    long_worker = _LONG_ID_OFFSET + worker_offset
    # The numbers in the comments are indexes: a jump skips jt or jf instructions after its own.
    return [
        # 0: long enough for a short header's worker byte? A long header needs more than that.
        Instruction(_LOAD_LENGTH, 0, 0, 0),
        Instruction(_JUMP_AT_LEAST, 0, 12, short_worker + 1),
        # 2: which header?
        Instruction(_LOAD_BYTE_AT, 0, 0, 0),
        Instruction(_JUMP_IF_BIT, 3, 0, _LONG_HEADER_BIT),
        # 4: short
        Instruction(_LOAD_BYTE_AT, 0, 0, short_worker),
        Instruction(_MODULO, 0, 0, sockets),
        Instruction(_RETURN_A, 0, 0, 0),
        # 7: long: is the worker byte inside the datagram, and inside the ID?
        Instruction(_LOAD_LENGTH, 0, 0, 0),
        Instruction(_JUMP_AT_LEAST, 0, 5, long_worker + 1),
        Instruction(_LOAD_BYTE_AT, 0, 0, _LONG_ID_LENGTH_OFFSET),
        Instruction(_JUMP_GREATER, 0, 3, worker_offset),
        Instruction(_LOAD_BYTE_AT, 0, 0, long_worker),
        Instruction(_MODULO, 0, 0, sockets),
        Instruction(_RETURN_A, 0, 0, 0),
        # 14
        Instruction(_RETURN, 0, 0, BY_HASH),
    ]


def pack_program(program: list[Instruction]) -> bytes:
    """Return the instructions as the `struct sock_filter` array that setsockopt points to."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def socket_of(worker: int, sockets: int) -> int:
    """Return the index that the program picks for an ID of `worker`."""
    return worker % sockets
