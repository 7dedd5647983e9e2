"""Sessions whose clients send more than the old process takes: each harms itself alone."""

from __future__ import annotations

import pytest

from quicbaton.service.moving.stream_relay import new_owner
from tests.asyncio.relayed_stream import Relayed

#: Of a unidirectional stream of the session on stream 0.
_UNI_HEADER = b"\x40\x54\x00"


def send_streams(relayed: Relayed, numbers: range, size: int) -> None:
    """The client's, whole in one packet each."""
    for number in numbers:
        relayed.client.send_stream_data(2 + 4 * number, _UNI_HEADER + bytes(size), True)
    relayed.run()
    relayed.run()


@pytest.mark.parametrize(
    ("limit", "value", "is_crowded"),
    [
        ("MAX_WAITING_SESSION_NEWS", 3, False),
        ("MAX_WAITING_SESSION_BYTES", 3000, False),
        ("RELAY_SHARE_BYTES", 3000, True),
    ],
)
def test_streams_that_come_faster_than_they_are_taken_cost_their_session(
    limit: str, value: int, is_crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_owner, limit, value)
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.to_old.is_crowded = is_crowded
    send_streams(relayed, range(10), 1000)
    relayed.take_client()
    assert set(relayed.client_codes) == {("reset", 0x107), ("stop", 0x107)}
    # Those that came after it are refused.
    assert relayed.under_way(relayed.to_old) < 8000
    for _ in range(2):
        while relayed.to_old.messages:
            relayed.deliver(relayed.to_old)
        while relayed.stand_in.next_event() is not None:
            pass
        while relayed.to_new.messages:
            relayed.deliver(relayed.to_new)
    assert not relayed.stand_in.stream_ids
    assert not relayed.new.is_open
    assert not relayed.owner.closed


def test_a_session_with_little_under_way_does_not_pay_for_a_link_that_others_crowd() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.to_old.is_crowded = True
    send_streams(relayed, range(10), 1000)
    relayed.take_client()
    assert not relayed.client_codes
    assert relayed.under_way(relayed.to_old) > 10_000


def test_streams_that_are_taken_as_they_come_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_owner, "MAX_WAITING_SESSION_NEWS", 20)
    relayed = Relayed(is_session=True)
    relayed.open()
    for start in range(0, 100, 10):
        send_streams(relayed, range(start, start + 10), 1000)
        while relayed.to_old.messages:
            relayed.deliver(relayed.to_old)
        relayed.take_application()
        while relayed.to_new.messages:
            relayed.deliver(relayed.to_new)
    relayed.take_client()
    assert not relayed.client_codes
    assert relayed.new.stream_count == 1
