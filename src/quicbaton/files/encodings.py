"""Accept-Encoding (RFC 9110 §12.5.3): which of the available encodings a client gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from quicbaton.files.refusal import RefusedRequestError


class Encoding(NamedTuple):
    """A content coding, and the ending of the names of files that are encoded by it."""

    coding: bytes
    suffix: str


#: In the order of our choice, where the client has no preference.
ENCODINGS: Final = (
    Encoding(b"br", ".br"),
    Encoding(b"zstd", ".zst"),
    Encoding(b"gzip", ".gz"),
)
#: The name for no encoding.
IDENTITY: Final = b"identity"

_QVALUE: Final = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_WEIGHT_ONE: Final = 1000


def choose(accepted: bytes | None, available: Sequence[Encoding]) -> Encoding | None:
    """The encoding to send, None for the file as it is.

    Without the field a client has to be ready for any encoding, and gets none, which every client
    understands. With it the weights decide. Among equal weights the encoded form is sent, since it
    is shorter.

    Raises RefusedRequestError (406) when the client excludes every form that is available.
    """
    if accepted is None or (not available and b";" not in accepted):
        # Without a weight no field excludes the file as it is.
        return None
    weights = _weights(accepted)
    best: Encoding | None = None
    best_weight = _weight_of_identity(weights)
    for encoding in available:
        weight = _weight_of(encoding.coding, weights)
        if weight and (weight > best_weight or (weight == best_weight and best is None)):
            best, best_weight = encoding, weight
    if best is None and not best_weight:
        raise RefusedRequestError(406, ((b"vary", b"accept-encoding"),))
    return best


def _weights(accepted: bytes) -> dict[bytes, int]:
    """Weights in thousandths, by coding. `*` may be one of them. Malformed items are left out."""
    weights: dict[bytes, int] = {}
    for element in accepted.lower().split(b","):
        coding, semicolon, parameter = (part.strip() for part in element.partition(b";"))
        name, _, value = parameter.partition(b"=")
        weight = _WEIGHT_ONE
        if semicolon:
            if name.strip() != b"q" or not _QVALUE.fullmatch(value.strip()):
                continue
            weight = round(float(value) * _WEIGHT_ONE)
        if coding:
            # §8.4.1.3: x-gzip is the older name of gzip.
            weights[b"gzip" if coding == b"x-gzip" else coding] = weight
    return weights


def _weight_of(coding: bytes, weights: dict[bytes, int]) -> int:
    return weights.get(coding, weights.get(b"*", 0))


def _weight_of_identity(weights: dict[bytes, int]) -> int:
    """The weight of the file as it is: acceptable unless excluded, and the last choice unless
    named."""
    if IDENTITY in weights:
        return weights[IDENTITY]
    return 0 if weights.get(b"*") == 0 else 1
