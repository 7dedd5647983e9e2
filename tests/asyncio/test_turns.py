"""The order in which connections are served, on a clock that only work moves."""

from __future__ import annotations

import asyncio

from quicbaton.asyncio.endpoint.turns import Turns
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.limits import (
    BULK_SHARE_DATAGRAMS,
    MAX_SHARE_DATAGRAMS,
    MAX_WAITING_PER_OWNER,
    TURN_S,
)


class Party:
    """Somebody whose datagrams take `cost_s` each."""

    def __init__(self, name: str, cost_s: float = TURN_S / 1000) -> None:
        self.name = name
        self.cost_s = cost_s
        self.is_bulk = False


class Scene:
    """Turns of some parties, and a record of who was served when, with how many."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.served: list[tuple[str, int]] = []
        self.parties: dict[bytes, Party] = {}
        self.turns: Turns[Party] = Turns(
            self._serve, self._serve_late, lambda party: party.is_bulk, lambda: self.now_s
        )

    def party(self, name: str, cost_s: float = TURN_S / 1000) -> Party:
        return self.parties.setdefault(name.encode(), Party(name, cost_s))

    def send(self, *groups: tuple[Party, int]) -> None:
        """A batch from the socket."""
        self.turns.take(
            {
                party: [Datagram(party.name.encode(), ("", 0), (), 0)] * count
                for party, count in groups
            }
        )

    def _serve(self, party: Party, group: list[Datagram]) -> None:
        self.served.append((party.name, len(group)))
        self.now_s += party.cost_s * len(group)

    def _serve_late(self, group: list[Datagram]) -> None:
        self._serve(self.parties[group[0].data], group)


async def _all_served(scene: Scene) -> None:
    while len(scene.turns):
        await asyncio.sleep(0)


async def test_a_batch_of_cheap_datagrams_is_served_at_once() -> None:
    scene = Scene()
    scene.send((scene.party("a"), MAX_SHARE_DATAGRAMS), (scene.party("b"), 1))
    assert scene.served == [("a", MAX_SHARE_DATAGRAMS), ("b", 1)]
    assert not len(scene.turns)


async def test_more_than_a_share_waits_for_the_next_turn() -> None:
    scene = Scene()
    scene.send((scene.party("a"), 3 * MAX_SHARE_DATAGRAMS), (scene.party("b"), 1))
    assert scene.served == [("a", MAX_SHARE_DATAGRAMS), ("b", 1)]
    await _all_served(scene)
    assert sum(count for _, count in scene.served[2:]) == 2 * MAX_SHARE_DATAGRAMS


async def test_a_costly_connection_gets_what_fits_a_turn() -> None:
    scene = Scene()
    costly, cheap = scene.party("costly", TURN_S / 2), scene.party("cheap")
    scene.send((costly, 100))
    for _ in range(40):
        before_s = scene.now_s
        await asyncio.sleep(0)
        assert scene.now_s - before_s < 1.5 * TURN_S
        # Between two of its turns the other is served, at once.
        scene.send((cheap, 1))
        assert scene.served[-1] == ("cheap", 1)
    await _all_served(scene)
    assert sum(count for name, count in scene.served if name == "costly") == 100


async def test_costly_connections_share_the_time() -> None:
    scene = Scene()
    parties = [scene.party(str(number), TURN_S) for number in range(5)]
    for party in parties:
        scene.turns.expect(party, 2)
    scene.send(*((party, 10) for party in parties))
    await _all_served(scene)
    assert scene.served == [(str(number), 2) for number in range(5)] * 5


async def test_a_costly_connection_is_forgiven_by_cheap_datagrams() -> None:
    scene = Scene()
    party = scene.party("reformed", TURN_S)
    scene.send((party, 1), (scene.party("other"), 1))
    scene.send((party, MAX_SHARE_DATAGRAMS))
    await _all_served(scene)
    party.cost_s = TURN_S / 1000
    for _ in range(100):
        scene.send((party, 1))
        await _all_served(scene)
    scene.send((party, MAX_SHARE_DATAGRAMS))
    assert scene.served[-1] == ("reformed", MAX_SHARE_DATAGRAMS)


async def test_a_new_connection_proves_itself() -> None:
    scene = Scene()
    party = scene.party("new", TURN_S / 2)
    scene.turns.expect(party, 4)
    scene.send((party, 100), (scene.party("known"), 1))
    assert scene.served == [("known", 1)]
    await asyncio.sleep(0)
    assert scene.served[1:] == [("new", 4)]


async def test_a_costly_connection_that_is_alone_need_not_stand_in_line() -> None:
    scene = Scene()
    party = scene.party("costly", TURN_S / 4)
    scene.turns.expect(party, 4)
    scene.send((party, 5))
    assert scene.served == [("costly", 4)]
    await _all_served(scene)
    assert scene.served[1:] == [("costly", 1)]


async def test_an_upload_is_served_in_larger_batches() -> None:
    scene = Scene()
    party = scene.party("upload", TURN_S / 200)
    for _ in range(8):
        scene.send((party, BULK_SHARE_DATAGRAMS))
        await _all_served(scene)
    assert scene.served[-1] == ("upload", BULK_SHARE_DATAGRAMS)
    # What it costs then counts at once.
    party.cost_s = TURN_S / 8
    scene.send((party, BULK_SHARE_DATAGRAMS))
    scene.send((party, BULK_SHARE_DATAGRAMS), (scene.party("other"), 1))
    scene.served.clear()
    await asyncio.sleep(0)
    assert scene.served == [("upload", 8)]


async def test_a_turn_has_several_shares_where_they_fit() -> None:
    scene = Scene()
    parties = [scene.party(str(number), TURN_S / 100) for number in range(3)]
    for party in parties:
        scene.turns.expect(party, 4)
    scene.send(*((party, 12) for party in parties))
    await asyncio.sleep(0)
    assert [name for name, _ in scene.served[:6]] == ["0", "1", "2"] * 2
    await _all_served(scene)
    assert sum(count for _, count in scene.served) == 36


async def test_bulk_transfers_do_not_pass_those_in_line() -> None:
    scene = Scene()
    parties = [scene.party(f"bulk {number}", TURN_S / 4) for number in range(20)]
    for party in parties:
        party.is_bulk = True
    for half in (parties[:10], parties[10:]):
        scene.send(*((party, 1) for party in half))
    light = scene.party("light")
    scene.send((light, 1))  # which need not wait for any of them
    assert scene.served[-1] == ("light", 1)
    await _all_served(scene)
    assert [name for name, _ in scene.served if name != "light"] == [one.name for one in parties]


async def test_the_line_of_one_connection_is_bounded() -> None:
    scene = Scene()
    party = scene.party("flood", TURN_S)
    scene.send((party, 10 * MAX_WAITING_PER_OWNER))
    assert len(scene.turns) == MAX_WAITING_PER_OWNER
    served = sum(count for _, count in scene.served)
    assert scene.turns.dropped == 9 * MAX_WAITING_PER_OWNER - served
    # Others have room.
    scene.send((scene.party("other"), 1))
    assert scene.served[-1] == ("other", 1)
    scene.turns.clear()
    assert not len(scene.turns)
