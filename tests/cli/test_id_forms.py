"""`serve --ids`: what connection IDs look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicbaton.cli.id_forms import chosen_ids
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.quic_lb import IdConfigs

RING = KeyRing(ClusterKey(b"key1", bytes(range(32))))
FORM = "encrypted:config=6,key=8f95f09245765f80256934e50c66207f"


def chosen(text: str = ServeOptions().ids) -> IdConfigs:
    return chosen_ids(text, RING)


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
