"""A reader of batons that knows docs/baton-format.md and nothing else of ours.

Whoever writes one for another stack may begin here. It takes the fields of structs from the page's
tables, and it refuses what the page says that a reader must refuse, but for clocks and names, which
are its caller's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.baton.format_tables import Row

_FIXED = struct.Struct(">4sH4s16sQQQ")
_TAG_BYTES = 16
_MOST_BYTES = 67_108_864
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "int": int,
    "int or float": (int, float),
    "bool": bool,
    "str": str,
    "bin": bytes,
    "[Address](#other-types)": list,
    "[SentFrame](#other-types)": list,
}


class RefusedBaton(Exception):  # noqa: N818 - it is what the page says
    """These bytes are no baton, or none that this key opens."""


class Opened(NamedTuple):
    header: dict[str, Any]
    digest: bytes
    content: Any


class FormatReader:
    """Reads batons by the page's tables, under the keys of a key file's text."""

    def __init__(self, tables: Mapping[str, list[Row]], tags: Mapping[int, str], keys: str) -> None:
        self._tables = tables
        self._tags = tags
        self._version = 0
        lines = [line.split(":") for line in keys.splitlines() if line and line[0] != "#"]
        self._secrets = {bytes.fromhex(key): base64.b64decode(text) for _, key, text in lines}

    def open(self, baton: bytes) -> Opened:
        if len(baton) > _MOST_BYTES or len(baton) < _FIXED.size:
            raise RefusedBaton("size")
        magic, version, key_id, baton_id, term, issued, expires = _FIXED.unpack_from(baton)
        if magic != b"QBTN" or version not in (3, 4):
            raise RefusedBaton("magic or version")
        at, texts = _FIXED.size, []
        for _ in range(3):
            stop = at + 1 + baton[at] if at < len(baton) else len(baton)
            texts.append(baton[at + 1 : stop])
            at = stop
        if at + _TAG_BYTES > len(baton) or not 1 <= len(texts[0]) <= 20:
            raise RefusedBaton("cut off, or a connection id of another length")
        if key_id not in self._secrets:
            raise RefusedBaton("seal")
        prk = hmac.digest(b"quicbaton cluster key v1", self._secrets[key_id], "sha256")
        key = hmac.digest(prk, b"quicbaton v1 baton\x00" + baton_id + b"\x01", "sha256")
        try:
            plain = AESGCM(key).decrypt(bytes(12), baton[at:], baton[:at])
            content = msgspec.msgpack.decode(plain)
            source, audience = texts[1].decode(), texts[2].decode()
        except (InvalidTag, msgspec.DecodeError, UnicodeDecodeError):
            raise RefusedBaton("seal") from None
        header = {"baton_id": baton_id, "connection_id": texts[0], "term": term}
        header |= {"source": source, "audience": audience, "issued_ms": issued}
        header |= {"expires_ms": expires}
        digest = hashlib.sha256(baton[:at] + baton[-_TAG_BYTES:]).digest()
        self._version = version
        return Opened(header, digest, self._read("[Snapshot](#snapshot)", content))

    def _read(self, kind: str, value: Any) -> Any:  # noqa: PLR0911 - a list of types
        """A value of the type that a table names; structs as dicts."""
        if kind in _TYPES:
            wanted = _TYPES[kind]
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise RefusedBaton(f"not of type {kind}")
            return value
        if kind.endswith(" or nil"):
            return None if value is None else self._read(kind.removesuffix(" or nil"), value)
        if kind == "[event](#events)":
            return {"event": self._tags[value[0]], **self._struct(self._tags[value[0]], value, 1)}
        if match := re.fullmatch(r"\[(\w+)\]\(#\w+\)", kind):
            return self._struct(match[1], value, 0)
        if match := re.fullmatch(r"array of (.+)", kind):
            return [self._read(match[1], each) for each in self._checked(value, list)]
        if match := re.fullmatch(r"map of int to (.+)", kind):
            return {
                key: self._read(match[1], each) for key, each in self._checked(value, dict).items()
            }
        inner = kind.removeprefix("(").removesuffix(")").split(", ")
        return [self._read(*each) for each in zip(inner, value, strict=True)]

    def _struct(self, name: str, value: Any, first: int) -> dict[str, Any]:
        rows = [row for row in self._tables[name] if row.since <= self._version]
        if len(self._checked(value, list)) != len(rows) + first:
            raise RefusedBaton(f"{name} has another number of fields")
        read = {row.name: self._read(row.type, value[row.place + first]) for row in rows}
        return dict.fromkeys(row.name for row in self._tables[name]) | read

    def _checked(self, value: Any, wanted: type) -> Any:
        if not isinstance(value, wanted):
            raise RefusedBaton(f"not a {wanted.__name__}")
        return value
