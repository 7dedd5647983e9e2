"""Two things that a ClientHello says, read before TLS reads all of it (RFC 8446 §4.1.2).

aioquic's TLS parses the message, uses it, and drops it. What must be known before that, or after,
is taken from the bytes here. That is no second parse: aioquic judges the message, and a malformed
one may say anything here. It has no more consequences than the certificate that would have been
shown.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: The lengths of type, length, version and random.
_BEFORE_SESSION_ID: Final = 1 + 3 + 2 + 32
_SERVER_NAME: Final = 0
_PRE_SHARED_KEY: Final = 41
_HOST_NAME: Final = 0


class Glimpse(NamedTuple):
    """The parts of a ClientHello that a server needs beforehand."""

    server_name: str | None
    #: The first ticket's age as the client states it, obfuscated (RFC 8446 §4.2.11); 0 without one.
    ticket_age: int


def glimpse(message: bytes) -> Glimpse:
    """Read a ClientHello that is whole; never an error."""
    name: str | None = None
    age = 0
    try:
        at = _BEFORE_SESSION_ID
        at += 1 + message[at]
        at += 2 + _uint16(message, at)  # cipher suites
        at += 1 + message[at] + 2  # compression methods, and the length of all extensions
        while at + 4 <= len(message):
            kind = _uint16(message, at)
            start = at + 4
            at = start + _uint16(message, at + 2)
            if kind == _SERVER_NAME:
                name = _host_name(message[start:at])
            elif kind == _PRE_SHARED_KEY:
                age = _first_age(message[start:at])
    except IndexError:
        pass  # TLS will say what is wrong
    return Glimpse(name, age)


def _host_name(extension: bytes) -> str | None:
    """The name of a server_name extension (RFC 6066 §3): there is one name in the list."""
    if extension[2] != _HOST_NAME:
        return None
    name = extension[5 : 5 + _uint16(extension, 3)]
    return name.decode() if name.isascii() else None


def _first_age(extension: bytes) -> int:
    """The obfuscated age of the first identity of a pre_shared_key extension."""
    age_at = 4 + _uint16(extension, 2)
    return int.from_bytes(extension[age_at : age_at + 4])


def _uint16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]
