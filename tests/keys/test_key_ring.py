"""Key rings: lookup, rotation, text form."""

from __future__ import annotations

import pytest

from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing, UnknownKeyError
from quicbaton.limits import MAX_RING_KEYS


def key(number: int) -> ClusterKey:
    return ClusterKey(bytes((0, 0, 0, number)), bytes((number,)) * 32)


def test_keys_are_found_by_id() -> None:
    ring = KeyRing(key(2), [key(1)])
    assert ring.active == key(2)
    assert ring.retired == (key(1),)
    assert ring.find(key(1).key_id) == key(1)
    assert ring.get(key(2).key_id) == key(2)
    assert ring.get(b"none") is None


def test_missing_key_names_itself_and_what_is_held() -> None:
    with pytest.raises(UnknownKeyError, match=r"00000009.*00000002, 00000001"):
        KeyRing(key(2), [key(1)]).find(key(9).key_id)


def test_rotation_keeps_earlier_keys_for_opening() -> None:
    ring = KeyRing(key(1)).rotate(key(2)).rotate(key(3))
    assert ring.active == key(3)
    assert ring.retired == (key(2), key(1))


def test_a_key_handed_out_as_retired_can_become_active() -> None:
    ring = KeyRing(key(1), [key(2)]).rotate(key(2))
    assert ring.active == key(2)
    assert ring.retired == (key(1),)


def test_same_id_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        KeyRing(key(1), [ClusterKey(key(1).key_id, bytes(32))])


def test_ring_is_bounded() -> None:
    retired = [key(n) for n in range(1, MAX_RING_KEYS)]
    assert len(KeyRing(key(0), retired)) == MAX_RING_KEYS
    with pytest.raises(ConfigurationError):
        KeyRing(key(0), [*retired, key(99)])


def test_text_form_survives_a_round_trip_with_comments() -> None:
    ring = KeyRing(key(3), [key(2), key(1)])
    text = "# made on Monday\n\n" + ring.encode() + "  \n"
    parsed = KeyRing.parse(text)
    assert list(parsed) == list(ring)
    assert parsed.active == key(3)


def test_bad_text_names_the_line_and_no_secret() -> None:
    with pytest.raises(ConfigurationError, match="line 2") as caught:
        KeyRing.parse(key(1).encode() + "\nnonsense\n")
    assert "nonsense" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="no key"):
        KeyRing.parse("# nothing\n")


def test_repr_shows_ids_only() -> None:
    assert repr(KeyRing(key(2), [key(1)])) == "KeyRing(active=00000002, retired=[00000001])"
