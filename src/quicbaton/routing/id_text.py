"""Configurations of connection IDs as an operator writes them.

    plaintext                   node and worker readable without a key; 12 octets
    encrypted                   AES-128 under the cluster key, four passes; 12 octets
    aws-nlb                     plaintext with the 8-octet server ID of AWS's balancer; 16 octets

with options after a colon, as in `plaintext:config=2,length`, or `encrypted:node=3,nonce=12`, whose
16 octets of node, worker and nonce are one AES block:

    node=N      octets of the node number         nonce=N     octets of the nonce, 4 at least
    config=N    config rotation bits, 0 to 6      length      the first octet says the ID's length
    key=HEX     the AES-128 key (16 octets) that a load balancer has, too; needs config=
    nomask      no masked worker octet after an encrypted ID: the kernel cannot steer by it

Several make a set (`IdConfigs`): the first issues, all are decoded. To change from one to another
without losing a packet, first add the new one at the end on every node, then move it to the front.

Without `config=` the bits come from the ring: 0 to 2 for plaintext and 3 to 5 for encrypted IDs, by
the series of the key (`ClusterKey.series`). So each rotation of the ring rotates the configuration,
IDs of the retired keys are still decoded, and an ID tells under which key its reset token was made.
6 is free for a configuration that a load balancer's operator dictates.

AWS. A target of a Network Load Balancer's QUIC listener is registered with a server ID of 8 octets
(TargetDescription.QuicServerId: "the 0x prefix followed by 16 hexadecimal characters ... unique at
the listener level", Elastic Load Balancing API), which is found in plaintext after the first octet.
The permitted lengths of an ID are not documented. That it must have 16 octets was found by trying
(moq-dev/moq, pull request 848); the example for Envoy in the guide of AWS's Load Balancer
Controller makes longer ones. The whole server ID is the node's number here. The balancer need not
know the workers behind one target: their octet is the first of those that it takes for the nonce.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import SERIES, Purpose
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.routing import id_cipher, worker_mask
from quicbaton.routing.id_cipher import IdCipher
from quicbaton.routing.quic_lb import IdConfigs, IdLayout
from quicbaton.routing.worker_mask import WorkerMask

PLAINTEXT: Final = "plaintext"
ENCRYPTED: Final = "encrypted"
AWS_NLB: Final = "aws-nlb"

_FIRST_ENCRYPTED: Final = SERIES  # after the bits of plaintext configurations
_MASK_LABEL: Final = b"quicbaton worker mask"


class _Form(Struct, frozen=True):
    """One configuration as written."""

    encrypted: bool
    node: int = 2
    nonce: int = 8
    config: int | None = None
    key: bytes | None = None
    length: bool = False
    mask: bool = True


_FORMS: Final[dict[str, dict[str, Any]]] = {
    PLAINTEXT: {"encrypted": False},
    # With the masked worker as long as plaintext IDs, so that a cluster can change over.
    ENCRYPTED: {"encrypted": True, "nonce": 7},
    AWS_NLB: {"encrypted": False, "node": 8, "nonce": 6, "config": 0},
}
_NUMBERS: Final = ("node", "nonce", "config")
_FLAGS: Final = {"length": ("length", True), "nomask": ("mask", False)}


def parse_ids(texts: str | Iterable[str], ring: KeyRing) -> IdConfigs:
    """Return the set of configurations that `texts` describe, under the keys of `ring`.

    Raises:
        ConfigurationError: codes `ids_text`, `id_key`, `id_layout`, `id_configs`, `id_lengths`.
            No message repeats a key.
    """
    written = texts.split() if isinstance(texts, str) else list(texts)
    if not written:
        raise ConfigurationError(
            f"no form of connection IDs is given; {PLAINTEXT} is the usual one",
            code=Reason.IDS_TEXT,
        )
    layouts: list[IdLayout] = []
    for text in written:
        layouts += _layouts(_parse(text), ring)
    return IdConfigs(layouts[0], layouts[1:])


def usual_ids(ring: KeyRing) -> IdConfigs:
    """Return the default configuration: plaintext."""
    return parse_ids(PLAINTEXT, ring)


def _parse(text: str) -> _Form:
    name, _, rest = text.strip().partition(":")
    if name not in _FORMS:
        raise ConfigurationError(
            f"connection IDs are {', '.join(_FORMS)}, got {name!r}", code=Reason.IDS_TEXT
        )
    fields = dict(_FORMS[name])
    for option in filter(None, rest.split(",")):
        key, _, value = option.partition("=")
        if key in _FLAGS and not value:
            field, setting = _FLAGS[key]
            fields[field] = setting
        elif key in _NUMBERS and value.isascii() and value.isdigit() and len(value) <= 2:
            fields[key] = int(value)
        elif key == "key":
            fields["key"] = _parse_key(value)
        else:
            raise ConfigurationError(
                f"an option of {name} is {', '.join(f'{n}=NUMBER' for n in _NUMBERS)},"
                f" {', '.join(_FLAGS)} or key=HEX, got {key!r}",
                code=Reason.IDS_TEXT,
            )
    form = _Form(**fields)
    if form.key is not None and not form.encrypted:
        raise ConfigurationError(f"{name} IDs have no key: write {ENCRYPTED}", code=Reason.IDS_TEXT)
    if form.encrypted and (form.key is None) != (form.config is None):
        raise ConfigurationError(
            f"{ENCRYPTED} IDs take key= and config= together, as a load balancer has them, or"
            " both from the cluster key",
            code=Reason.IDS_TEXT,
        )
    return form


def _parse_key(value: str) -> bytes:
    try:
        key = bytes.fromhex(value)
    except ValueError:
        key = b""
    if len(key) != id_cipher.KEY_BYTES:
        raise ConfigurationError(
            f"key= takes {2 * id_cipher.KEY_BYTES} hexadecimal digits", code=Reason.ID_KEY
        )
    return key


def _layouts(form: _Form, ring: KeyRing) -> list[IdLayout]:
    """The configurations of one form; that of the active key comes first."""
    if form.key is not None and form.config is not None:
        mask_key = hmac.digest(form.key, _MASK_LABEL, "sha256")
        return [_encrypted(form, form.config, form.key, mask_key, ())]
    if form.encrypted:
        # Two keys of one series would have the same bits; `IdConfigs` raises for that.
        sizes = bytes((form.node, form.nonce))
        return [
            _encrypted(
                form,
                _FIRST_ENCRYPTED + key.series,
                key.derive(Purpose.CONNECTION_ID, b"cipher" + sizes),
                key.derive(Purpose.CONNECTION_ID, b"mask" + sizes),
                (key.key_id,),
            )
            for key in ring
        ]
    if form.config is not None:
        return [_plaintext(form, form.config, ())]
    # All series, also those without a key in the ring: a node that has the next key already issues
    # by it.
    first = ring.active.series
    return [
        _plaintext(form, series, tuple(key.key_id for key in ring if key.series == series))
        for series in sorted(range(SERIES), key=lambda series: series != first)
    ]


def _plaintext(form: _Form, config_id: int, issued_under: tuple[bytes, ...]) -> IdLayout:
    return IdLayout(
        config_id=config_id,
        node_bytes=form.node,
        nonce_bytes=form.nonce,
        describes_length=form.length,
        issued_under=issued_under,
    )


def _encrypted(
    form: _Form, config_id: int, key: bytes, mask_key: bytes, issued_under: tuple[bytes, ...]
) -> IdLayout:
    return IdLayout(
        config_id=config_id,
        node_bytes=form.node,
        nonce_bytes=form.nonce,
        describes_length=form.length,
        cipher=IdCipher(key[: id_cipher.KEY_BYTES]),
        mask=WorkerMask(mask_key[: worker_mask.KEY_BYTES]) if form.mask else None,
        issued_under=issued_under,
    )
