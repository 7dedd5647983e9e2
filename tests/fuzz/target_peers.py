"""Messages of other processes: handoff messages, relayed streams and commands of the control
socket.

The first byte chooses the reader of the rest, the second the size of the pieces in which it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from types import UnionType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.handoff import (
    CODEC,
    GivingByLedger,
    Hello,
    TakingByLedger,
    answer_stale,
    decode,
    encode,
    shared_formats,
)
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as m
from quicbaton.handoff.machine import Machine
from quicbaton.handoff.stream_relay import Receiving, Sending
from quicbaton.limits import MAX_COMMAND_BYTES, MAX_HANDOFF_MESSAGE_BYTES, RELAY_WINDOW_BYTES
from quicbaton.ownership import Ledger
from quicbaton.service.peers import commands as c
from tests.fuzz.fuzzing import Reader, at_most, only

_CALLS: Final = 5_000
_CALLS_PER_BYTE: Final = 50
_CID: Final = b"connection"
_HANDOFF: Final = bytes(16)


def target(data: bytes) -> None:
    reader = Reader(data)
    kind, step = reader.byte() % 2, reader.byte() + 1
    rest = reader.rest()
    pieces = [rest[at : at + step] for at in range(0, len(rest), step)]
    with at_most(_CALLS + _CALLS_PER_BYTE * len(data)), only(PeerError):
        if kind == 0:
            _read_link(pieces)
        else:
            _read_commands(pieces)


def _read_link(pieces: list[bytes]) -> None:
    frames, peer = CODEC.reader(), _Peer()
    for piece in pieces:
        for message in frames.feed(piece):
            assert decode(encode(message)[4:]) == message
            peer.hear(message)
        assert len(frames._buffer) <= MAX_HANDOFF_MESSAGE_BYTES + 4


def _read_commands(pieces: list[bytes]) -> None:
    commands = c.CODEC.reader()
    for piece in pieces:
        for frame in commands.feed(piece):
            c.may_come_from_afar(frame)
            # Sets have no order, so the bytes may differ.
            assert c.CODEC.decode(c.encode(frame)[4:]) == frame
        assert len(commands.rest) <= MAX_COMMAND_BYTES + 4 + len(piece)


_OFFER: Final = m.Offer(_CID, _HANDOFF, 1, 100, 2, "S", "D", (), True, b"")
_READY: Final = m.Ready(_CID, _HANDOFF, bytes(16), bytes(16))
_COMMITTED: Final = m.Committed(_CID, _HANDOFF, 2, bytes(16), bytes(16), 0)
#: Events at a process that gives a connection away, and at one that takes it.
_GIVEN: Final = (
    ev.Start(1, "S", "D", 100, 2, cutover_pending=False),
    ev.Received(1, m.Accept(_CID, _HANDOFF, proxy=False)),
    ev.Sealed(bytes(16), bytes(16), b"sealed"),
    ev.Received(1, _READY),
)
_TAKEN: Final = (
    ev.Received(1, _OFFER),
    ev.Received(1, m.Baton(_CID, _HANDOFF, b"sealed")),
    ev.Rebuilt(_CID, 1, bytes(16), bytes(16)),
    ev.Received(1, _COMMITTED),
)


class _Peer:
    """Processes that have offered a connection, frozen it, given it away; that were offered one,
    have it ready, have taken it; and a relay."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._machines = [
            *(_giving(_GIVEN[:events]) for events in (1, 3, 4)),
            *(_taking(_TAKEN[:events]) for events in (0, 3, 4)),
        ]
        self._sending, self._receiving = Sending(), Receiving()
        self._sending.open()
        self._clock = count()

    def hear(self, message: m.Message) -> None:
        if isinstance(message, Hello):
            with only(PeerError):
                shared_formats(message, Hello(message.version, "x", 1, (1, 2)))
        elif isinstance(message, m.StreamMessage):
            with only(PeerError):
                self._relay(message)
        elif isinstance(message, m.HandoffMessage):
            answer_stale(self._ledger, 1, message)
            for number, machine in enumerate(self._machines):
                # What is out of order, or another connection's, is refused by a typed error.
                with only(QuicbatonError):
                    machine.handle(ev.Received(1, message), next(self._clock))
                self._machines[number] = machine.successor or machine

    def _relay(self, message: m.StreamMessage) -> None:
        if isinstance(message, m.StreamBytes):
            self._receiving.receive(len(message.data), message.end_stream)
            assert self._receiving._uncredited_bytes <= RELAY_WINDOW_BYTES + 1
        elif isinstance(message, m.StreamCredit):
            if not self._sending.ended:
                self._sending.write(bytes(1000), fin=False)
            self._sending.credit(message.size_bytes)
            assert self._sending._uncredited_bytes >= 0


def _giving(events: Sequence[ev.Event]) -> Machine[Any]:
    ledger = Ledger()
    ledger.own(_CID)
    return _after(GivingByLedger(_CID, _HANDOFF, ledger), events)


def _taking(events: Sequence[ev.Event]) -> Machine[Any]:
    taking = TakingByLedger(_CID, _HANDOFF, Ledger(), name="D", formats=frozenset([2]))
    return _after(taking, events)


def _after(machine: Machine[Any], events: Sequence[ev.Event]) -> Machine[Any]:
    for event in events:
        machine.handle(event, 0)
        machine = machine.successor or machine
    return machine


# --- inputs: one of each kind, of values that fit its types ---------------------------------------


def _value(kind: Any) -> Any:  # noqa: PLR0911 - a list of types
    """A value of a field's type."""
    origin = get_origin(kind)
    if origin is Annotated:
        bounds = next(arg for arg in get_args(kind)[1:] if isinstance(arg, msgspec.Meta))
        value = _value(get_args(kind)[0])
        if isinstance(value, bytes) and bounds.min_length:
            return bytes(bounds.min_length)
        return max(value, bounds.ge or 0) if isinstance(value, int) else value
    if origin is Literal:
        return get_args(kind)[0]
    if origin is UnionType:
        return _value(get_args(kind)[0])
    if origin is not None:
        return origin()
    if kind in (bytes, bytearray):
        return b"abc"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _one(kind)
    return kind(1) if kind in (int, float, bool) else kind()


def _one(kind: type[msgspec.Struct]) -> Any:
    values = {field.name: _value(field.type) for field in msgspec.structs.fields(kind)}
    if "connection_id" in values:
        values["connection_id"] = _CID
    if "handoff_id" in values:
        values["handoff_id"] = _HANDOFF
    return kind(**values)


def seeds() -> list[bytes]:
    messages = [encode(_one(kind)) for kind in get_args(m.Message)]
    commands = [c.encode(_one(kind)) for kind in get_args(c.Frame)]
    return [
        *(b"\x00\xff" + message for message in messages),
        *(b"\x01\xff" + command for command in commands),
        b"\x00\x03" + b"".join(messages),
        b"\x01\x03" + b"".join(commands),
        b"\x00\x00\xff\xff\xff\xff",
        b"\x01\x00\xff\xff\xff\xff",
    ]


def inputs() -> st.SearchStrategy[bytes]:
    """Messages in any order."""
    known = [seed[2:] for seed in seeds()]
    return st.builds(
        lambda head, chosen: head + b"".join(chosen),
        st.sampled_from([b"\x00\x40", b"\x01\x40"]),
        st.lists(st.sampled_from(known), max_size=8),
    )
