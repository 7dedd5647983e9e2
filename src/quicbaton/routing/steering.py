"""The kernel's share of routing: which worker's socket gets a datagram.

Workers of one host share a UDP port with SO_REUSEPORT. A classic BPF program, attached to the group
with SO_ATTACH_REUSEPORT_CBPF (needs no privilege), returns the index of a socket: the worker number
in the destination connection ID, modulo the number of sockets. The place of the number depends on
the ID's configuration, which its first octet names:

* Plaintext: the worker octet.
* Encrypted, with a masked worker: the last octet, XOR a keyed hash of the ciphertext, which the
  program computes (the draft's "server process demultiplexing", `worker_mask`). Encrypted IDs are
  steered as exactly as plaintext ones.
* Encrypted, without: the kernel cannot know. It picks a socket by its hash of addresses and ports,
  and the worker that gets the datagram tosses it to the one that its ID names.

The same rule is applied to every packet, also where a client chose the ID. So a client's flight
stays together, and a worker that issues IDs with its own number keeps the connections that it
accepted. If a client's ID has the bits of no configuration, it is read as one of the configuration
that issues, where that is plaintext. Otherwise the kernel's hash decides, which keeps a sender
together, too.

The program's view. The kernel runs it over the UDP payload: `run_bpf_filter` in Linux'
net/core/sock_reuseport.c pulls the transport header off first, so offset 0 is QUIC's first byte and
the length is the datagram's. `test_kernel_steers_by_worker` checks this. A burst that the network
card coalesced is steered by its first segment's ID, since it becomes one datagram only within one
flow; the segments are routed each by its own ID in user space.

Two answers of the kernel need care. A load beyond the packet ends a classic program with 0, which
would send all garbage to worker 0; therefore every load is preceded by a test of the length. An
index that is not below the number of sockets makes the kernel choose by its hash of addresses and
ports, which keeps a sender together and spreads senders: the program returns that for a datagram
that is too short, or whose ID is.

The index counts sockets in the order in which they joined the group, and Linux moves the last one
into the gap when one closes: sockets must outlive the processes that read them.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import MAX_WORKER, IdConfigs, IdLayout
from quicbaton.routing.worker_mask import (
    HASHED_BYTES,
    LAST_ROUNDS,
    WORD_ROUNDS,
    WorkerMask,
    last_word,
)

#: Asks the kernel to choose by its hash: no group has so many sockets.
BY_HASH: Final = 0xFFFF_FFFF

# linux/bpf_common.h. A is the accumulator, X the index register, M sixteen words of memory.
_LOAD: Final = 0x00  # A = k
_LOAD_BYTE_AT: Final = 0x30  # A = packet[k]
_LOAD_BYTE_FROM: Final = 0x50  # A = packet[X + k]
_LOAD_WORD_FROM: Final = 0x40  # A = four bytes at packet[X + k], network order
_LOAD_LENGTH: Final = 0x80  # A = the packet's length
_LOAD_MEMORY: Final = 0x60  # A = M[k]
_LOAD_X: Final = 0x01  # X = k
_LOAD_X_MEMORY: Final = 0x61  # X = M[k]
_STORE: Final = 0x02  # M[k] = A
_TO_X: Final = 0x07  # X = A
_ADD: Final = 0x04  # A += k
_ADD_X: Final = 0x0C  # A += X
_SUBTRACT: Final = 0x14  # A -= k
_AND: Final = 0x54  # A &= k
_OR_X: Final = 0x4C  # A |= X
_SHIFT_LEFT: Final = 0x64  # A <<= k
_SHIFT_RIGHT: Final = 0x74  # A >>= k
_MODULO: Final = 0x94  # A %= k
_XOR: Final = 0xA4  # A ^= k
_XOR_X: Final = 0xAC  # A ^= X
_JUMP: Final = 0x05
_JUMP_EQUAL: Final = 0x15  # A == k?
_JUMP_AT_LEAST: Final = 0x35  # A >= k?
_JUMP_AT_LEAST_X: Final = 0x3D  # A >= X?
_JUMP_IF_BIT: Final = 0x45  # A & k?
_RETURN: Final = 0x06  # return k
_RETURN_A: Final = 0x16  # return A

_LONG_HEADER_BIT: Final = 0x80
_SHORT_ID_OFFSET: Final = 1
_LONG_ID_LENGTH_OFFSET: Final = 5  # RFC 8999 §5.1: first byte, version, then the ID's length
_LONG_ID_OFFSET: Final = 6

# Words of memory: the state of the hash (0 to 3), its input, and the length of the ID.
_V0, _V1, _V2, _V3 = range(4)
_INPUT: Final = (4, 5)
_ID_BYTES: Final = 6


class Instruction(NamedTuple):
    """One classic BPF instruction: `struct sock_filter`. A conditional jump skips `jt` or `jf`
    instructions after its own."""

    code: int
    jt: int = 0
    jf: int = 0
    k: int = 0


_BY_HASH: Final = Instruction(_RETURN, k=BY_HASH)


def steering_program(ids: IdLayout | IdConfigs, sockets: int) -> list[Instruction]:
    """Return the program that picks one of `sockets` sockets by the worker in the ID.

    Raises:
        ConfigurationError: `sockets` is not 1 to 256: worker numbers have one byte.
    """
    if not 1 <= sockets <= MAX_WORKER + 1:
        raise ConfigurationError(
            f"a group has 1 to {MAX_WORKER + 1} sockets, got {sockets}", code=Reason.WORKERS
        )
    configs = IdConfigs.of(ids)
    program = _find_id()
    program += [
        Instruction(_LOAD_BYTE_FROM, k=0),
        Instruction(_SHIFT_RIGHT, k=5),
    ]
    for layout in configs:
        branch = _branch(layout, sockets)
        # Conditional jumps reach 255 instructions, this one any number.
        program += [
            Instruction(_JUMP_EQUAL, 1, 0, layout.config_id),
            Instruction(_JUMP, k=len(branch)),
            *branch,
        ]
    plain = configs.issuing.cipher is None
    return program + (_plain_branch(configs.issuing, sockets) if plain else [_BY_HASH])


def pack_program(program: list[Instruction]) -> bytes:
    """Return the instructions as the `struct sock_filter` array that setsockopt points to."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def socket_of(worker: int, sockets: int) -> int:
    """Return the index that the program picks for an ID of `worker`."""
    return worker % sockets


# --- the program's parts, in its own order ----------------------------------------------------


def _find_id() -> list[Instruction]:
    """Leave the ID's offset in X and its length in memory; the whole ID is in the packet."""
    return [
        Instruction(_LOAD_LENGTH),
        Instruction(_JUMP_AT_LEAST, 1, 0, _SHORT_ID_OFFSET + 1),
        _BY_HASH,
        Instruction(_LOAD_BYTE_AT, k=0),
        Instruction(_JUMP_IF_BIT, 5, 0, _LONG_HEADER_BIT),
        # Short: everything after the first byte may be the ID.
        Instruction(_LOAD_LENGTH),
        Instruction(_SUBTRACT, k=_SHORT_ID_OFFSET),
        Instruction(_STORE, k=_ID_BYTES),
        Instruction(_LOAD_X, k=_SHORT_ID_OFFSET),
        Instruction(_JUMP, k=13),
        # Long: at least one byte of an ID, and the whole of it within the packet.
        Instruction(_LOAD_LENGTH),
        Instruction(_JUMP_AT_LEAST, 1, 0, _LONG_ID_OFFSET + 1),
        _BY_HASH,
        Instruction(_LOAD_BYTE_AT, k=_LONG_ID_LENGTH_OFFSET),
        Instruction(_STORE, k=_ID_BYTES),
        Instruction(_JUMP_AT_LEAST, 1, 0, 1),
        _BY_HASH,
        Instruction(_ADD, k=_LONG_ID_OFFSET),
        Instruction(_TO_X),
        Instruction(_LOAD_LENGTH),
        Instruction(_JUMP_AT_LEAST_X, 1, 0),
        _BY_HASH,
        Instruction(_LOAD_X, k=_LONG_ID_OFFSET),
    ]


def _branch(layout: IdLayout, sockets: int) -> list[Instruction]:
    """The instructions for an ID of this configuration. They return in any case."""
    if layout.cipher is None:
        return _plain_branch(layout, sockets)
    if layout.mask is None:
        return [_BY_HASH]
    return _masked_branch(layout, layout.mask, sockets)


def _plain_branch(layout: IdLayout, sockets: int) -> list[Instruction]:
    worker_offset = 1 + layout.node_bytes
    return [
        Instruction(_LOAD_MEMORY, k=_ID_BYTES),
        Instruction(_JUMP_AT_LEAST, 1, 0, worker_offset + 1),
        _BY_HASH,
        Instruction(_LOAD_BYTE_FROM, k=worker_offset),
        Instruction(_MODULO, k=sockets),
        Instruction(_RETURN_A),
    ]


def _masked_branch(layout: IdLayout, mask: WorkerMask, sockets: int) -> list[Instruction]:
    program = [
        Instruction(_LOAD_MEMORY, k=_ID_BYTES),
        Instruction(_JUMP_AT_LEAST, 1, 0, layout.length),
        _BY_HASH,
    ]
    for word, place in enumerate(_INPUT):
        program += [Instruction(_LOAD_WORD_FROM, k=1 + 4 * word), Instruction(_STORE, k=place)]
    # The masked octet is kept where the length was.
    program += [Instruction(_LOAD_BYTE_FROM, k=layout.length - 1), Instruction(_STORE, k=_ID_BYTES)]
    for place, value in enumerate(mask.initial_state()):
        program += [Instruction(_LOAD, k=value), Instruction(_STORE, k=place)]
    for place in _INPUT:
        program += _xor_into(_V3, place) + _round() * WORD_ROUNDS + _xor_into(_V0, place)
    last = last_word(HASHED_BYTES)
    program += _xor_constant(_V3, last) + _round() * WORD_ROUNDS + _xor_constant(_V0, last)
    program += _xor_constant(_V2, 0xFF) + _round() * LAST_ROUNDS
    return [
        *program,
        Instruction(_LOAD_MEMORY, k=_V1),
        Instruction(_LOAD_X_MEMORY, k=_V3),
        Instruction(_XOR_X),
        Instruction(_AND, k=0xFF),
        Instruction(_LOAD_X_MEMORY, k=_ID_BYTES),
        Instruction(_XOR_X),
        Instruction(_MODULO, k=sockets),
        Instruction(_RETURN_A),
    ]


def _round() -> list[Instruction]:
    """HalfSipHash's round on the four words in memory; `worker_mask` has it in Python."""
    return [
        *_add_into(_V0, _V1),
        *_rotate(_V1, 5),
        *_xor_into(_V1, _V0),
        *_rotate(_V0, 16),
        *_add_into(_V2, _V3),
        *_rotate(_V3, 8),
        *_xor_into(_V3, _V2),
        *_add_into(_V0, _V3),
        *_rotate(_V3, 7),
        *_xor_into(_V3, _V0),
        *_add_into(_V2, _V1),
        *_rotate(_V1, 13),
        *_xor_into(_V1, _V2),
        *_rotate(_V2, 16),
    ]


def _add_into(place: int, other: int) -> list[Instruction]:
    return _combine(_ADD_X, place, other)


def _xor_into(place: int, other: int) -> list[Instruction]:
    return _combine(_XOR_X, place, other)


def _combine(code: int, place: int, other: int) -> list[Instruction]:
    return [
        Instruction(_LOAD_MEMORY, k=place),
        Instruction(_LOAD_X_MEMORY, k=other),
        Instruction(code),
        Instruction(_STORE, k=place),
    ]


def _xor_constant(place: int, value: int) -> list[Instruction]:
    return [
        Instruction(_LOAD_MEMORY, k=place),
        Instruction(_XOR, k=value),
        Instruction(_STORE, k=place),
    ]


def _rotate(place: int, bits: int) -> list[Instruction]:
    return [
        Instruction(_LOAD_MEMORY, k=place),
        Instruction(_SHIFT_RIGHT, k=32 - bits),
        Instruction(_TO_X),
        Instruction(_LOAD_MEMORY, k=place),
        Instruction(_SHIFT_LEFT, k=bits),
        Instruction(_OR_X),
        Instruction(_STORE, k=place),
    ]
