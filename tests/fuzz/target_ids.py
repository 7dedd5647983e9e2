"""Connection IDs as any sender may choose them, and their configuration as an operator may write
it."""

from __future__ import annotations

from typing import Final

from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.id_text import parse_ids
from quicbaton.routing.quic_lb import MAX_WORKER, IdConfigs, IdLayout, Place
from tests.fuzz.fuzzing import Reader, at_most, only

_RING: Final = KeyRing(
    ClusterKey.generate(lambda size: b"\x07" * size),
    [ClusterKey.generate(lambda size: b"\x09" * size)],
)
_KEY: Final = "00112233445566778899aabbccddeeff"
_TEXTS: Final = (
    "plaintext",
    "plaintext:length",
    "encrypted",
    "encrypted:nomask",
    "encrypted:node=3,nonce=12",
    f"encrypted:config=6,key={_KEY},node=1,nonce=14",
    "aws-nlb",
)
_CALLS: Final = 5_000
_CALLS_PER_BYTE: Final = 30


def _configs() -> list[IdConfigs]:
    return [parse_ids(text, _RING) for text in _TEXTS]


_CONFIGS: Final = _configs()


def target(data: bytes) -> None:
    reader = Reader(data)
    kind = reader.byte() % (len(_CONFIGS) + 1)
    rest = reader.rest()
    with at_most(_CALLS + _CALLS_PER_BYTE * len(rest)):
        if kind < len(_CONFIGS):
            _decode(_CONFIGS[kind], rest)
        else:
            _parse(rest.decode("utf8", "replace"))


def _decode(configs: IdConfigs, cid: bytes) -> None:
    place = configs.decode(cid)
    layout = configs.layout_of(cid)
    if place is None:
        return
    assert layout is not None
    assert len(cid) == layout.length
    assert 0 <= place.node <= layout.max_node
    assert 0 <= place.worker <= MAX_WORKER
    assert configs.keys_of(cid, _RING)


def _parse(text: str) -> None:
    with only(ConfigurationError):
        configs = parse_ids(text, _RING)
        assert all(isinstance(layout, IdLayout) for layout in configs)
        layout = next(iter(configs))
        place = Place(1, 2)
        cid = layout.encode(place, bytes(1 + layout.nonce_bytes))
        assert configs.decode(cid) == place


def seeds() -> list[bytes]:
    known = []
    for number, configs in enumerate(_CONFIGS):
        for layout in configs:
            cid = layout.encode(Place(1, 2), bytes(range(1 + layout.nonce_bytes)))
            known.append(bytes([number]) + cid)
    texts = [
        *_TEXTS,
        "plaintext encrypted",
        "plaintext:node=1,nonce=6,config=2",
        "encrypted:key=00",
        "plaintext:node=" + 5000 * "1",
        "plaintext:node=²",
    ]
    return [*known, *(bytes([len(_CONFIGS)]) + text.encode() for text in texts)]
