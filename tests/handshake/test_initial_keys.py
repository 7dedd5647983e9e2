"""Initial keys of the versions that are used, and of no others."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic.crypto import CryptoPair, KeyUnavailableError
from aioquic.tls import Epoch

from tests.handshake.aioquic_pair import V1, V2, Pair

BOTH = {"supported_versions": [V1, V2]}


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions of a server's Initial keys, in the order in which they are derived."""
    versions: list[int] = []
    setup = CryptoPair.setup_initial

    def note(pair: CryptoPair, cid: bytes, is_client: bool, version: int) -> None:
        if not is_client:
            versions.append(version)
        setup(pair, cid=cid, is_client=is_client, version=version)

    monkeypatch.setattr(CryptoPair, "setup_initial", note)
    return versions


@pytest.mark.parametrize(
    ("client", "versions"),
    [
        ({"supported_versions": [V1]}, [V1]),
        ({"supported_versions": [V2]}, [V2]),
        ({"supported_versions": [V1, V2], "original_version": V1}, [V1]),
        ({"supported_versions": [V2, V1], "original_version": V1}, [V1, V2]),
    ],
)
def test_a_server_derives_those_of_the_versions_in_use(
    derived: list[int], client: dict[str, Any], versions: list[int]
) -> None:
    pair = Pair(client=client, server=BOTH)
    pair.until_client_ready()
    assert derived == versions
    assert pair.client._version == pair.server._version == versions[-1]
    told = pair.client._remote_version_information
    assert told is not None
    assert (told.chosen_version, told.available_versions) == (versions[-1], [V1, V2])
    assert pair.server._configuration.supported_versions == [V1, V2]


def test_discarded_keys_do_not_come_back_in_another_version(derived: list[int]) -> None:
    pair = Pair(client={"supported_versions": [V1]}, server=BOTH)
    pair.until_server_ready()
    assert pair.server._spaces[Epoch.INITIAL].discarded
    for version in (V1, V2):
        with pytest.raises(KeyUnavailableError):
            pair.server._cryptos_initial[version].decrypt_packet(bytes(64), 20, 0)
    assert derived == [V1]
