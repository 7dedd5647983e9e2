"""`serve --ids`: the forms of connection IDs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quicbaton.cli.id_forms import chosen_ids, node_number
from quicbaton.cli.main import parse
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.quic_lb import IdConfigs, IdFactory

RING = KeyRing(ClusterKey(b"key1", bytes(range(32))))
FORM = "encrypted:config=6,key=8f95f09245765f80256934e50c66207f"


def chosen(text: str | None = None, server_id: str | None = None) -> IdConfigs:
    return chosen_ids(ServeOptions(ids=text, server_id=server_id), RING)


def test_ids_are_plaintext_unless_asked_otherwise() -> None:
    assert chosen().issuing.cipher is None
    ids = chosen("encrypted plaintext")
    assert ids.issuing.cipher is not None
    assert len(list(ids)) == 4


def test_forms_with_a_key_come_from_a_file_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text(f"# as the balancer has it\n{FORM}\n\nplaintext\n")
    path.chmod(0o600)
    assert chosen(f"@{path}").issuing.config_id == 6
    path.chmod(0o640)
    with pytest.raises(ConfigurationError) as caught:
        chosen(f"@{path}")
    assert caught.value.code == "not_private"
    with pytest.raises(ConfigurationError) as caught:
        chosen(f"@{tmp_path / 'missing'}")
    assert "missing" in str(caught.value)


def test_key_among_the_arguments_is_refused_unseen() -> None:
    with pytest.raises(ConfigurationError) as caught:
        chosen(FORM)
    assert "@FILE" in str(caught.value)
    assert "8f95" not in str(caught.value)


def test_a_server_id_is_in_every_id_where_the_balancer_looks_for_it() -> None:
    options = ServeOptions(server_id="0x0a1B2c3d4e5f6071")
    number = node_number(options, None)
    issued = IdFactory(chosen(None, options.server_id), number, 3, os.urandom, RING).issue()[0]
    assert len(issued) == 16
    assert issued[1:9].hex() == "0a1b2c3d4e5f6071"


@pytest.mark.parametrize("text", ["0x1", "0a1b2c3d4e5f6071", "0x0a1b2c3d4e5f60717", "any"])
def test_a_server_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="16 hexadecimal digits"):
        node_number(ServeOptions(server_id=text), None)


def test_the_server_id_comes_from_the_controllers_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LBC_QUIC_SERVER_ID", "0x0a1b2c3d4e5f6071")
    options, _ = parse(["serve", "."])
    assert isinstance(options, ServeOptions)
    assert options.server_id == "0x0a1b2c3d4e5f6071"
