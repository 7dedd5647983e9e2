"""Open files that go along with a program's state: their owner, and the cost of its mistakes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from quicbaton.asyncio import QuicConnectionProtocol
from quicbaton.asyncio.endpoint.program import export_descriptors, import_program
from quicbaton.errors import RefusedError
from quicbaton.limits import MAX_PASSED_DESCRIPTORS
from quicbaton.service.moving.parcels import Parcel, copy


class Holder(QuicConnectionProtocol):
    """A program with open files, and with a mistake somewhere."""

    fails_in = ""

    def __init__(self) -> None:
        quic: Any = object()
        super().__init__(quic)
        self.held: list[int] = []

    def export_state(self) -> bytes:
        return b""

    def export_descriptors(self) -> Sequence[int]:
        self._fail("export_descriptors")
        return self.held

    def import_descriptors(self, descriptors: list[int]) -> None:
        self.held = descriptors
        self._fail("import_descriptors")

    def import_state(self, data: bytes) -> None:
        self._fail("import_state")

    def connection_left(self) -> None:
        super().connection_left()
        Parcel(self.held).close()
        self.held = []

    def _fail(self, method: str) -> None:
        if method == self.fails_in:
            raise ZeroDivisionError


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_a_program_that_does_not_know_of_them_keeps_none_open() -> None:
    quic: Any = object()
    passed = os.dup(0)
    protocol = QuicConnectionProtocol(quic)
    assert export_descriptors(protocol) == []
    import_program(protocol, quic, None, b"", [passed])
    assert not is_open(passed)


@pytest.mark.parametrize("method", ["import_descriptors", "import_state"])
async def test_a_mistake_in_the_import_leaves_them_to_the_program(method: str) -> None:
    protocol = Holder()
    protocol.fails_in = method
    passed = os.dup(0)
    quic: Any = object()
    with pytest.raises(RefusedError, match=method) as caught:
        import_program(protocol, quic, None, b"", [passed])
    assert caught.value.code == "import_failed"
    protocol.connection_left()
    assert not is_open(passed)


async def test_a_mistake_in_the_export_refuses_the_move() -> None:
    protocol = Holder()
    protocol.fails_in = "export_descriptors"
    with pytest.raises(RefusedError, match="export_descriptors") as caught:
        export_descriptors(protocol)
    assert caught.value.code == "export_failed"


async def test_more_than_can_be_passed_stay_behind() -> None:
    protocol = Holder()
    protocol.held = [0] * MAX_PASSED_DESCRIPTORS
    assert len(export_descriptors(protocol)) == MAX_PASSED_DESCRIPTORS
    protocol.held = [0] * (MAX_PASSED_DESCRIPTORS + 1)
    assert export_descriptors(protocol) == []


def test_a_parcel_is_closed_unless_it_is_taken() -> None:
    before = os.listdir("/proc/self/fd")
    copy([0, 0, 0]).close()
    copy([0, 10**6]).close()
    parcel = copy([0])
    (taken,) = parcel.take()
    parcel.close()
    assert is_open(taken)
    os.close(taken)
    assert os.listdir("/proc/self/fd") == before
