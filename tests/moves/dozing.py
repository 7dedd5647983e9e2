"""Connections that doze: all that is left of them is the bytes of their state."""

from __future__ import annotations

import gc
from types import FunctionType
from typing import Any

import msgspec

from quicbaton.errors import RefusedError
from quicbaton.reasons import Reason
from quicbaton.transport.connection import Connection


def doze(end: Any) -> None:
    """Let the connection of an end doze; RefusedError while it has something to do."""
    connection = end.connection
    if not isinstance(connection, Connection) or not connection.doze(end.pair.now):
        raise RefusedError("the connection has something to do", code=Reason.NEEDED)
    assert connection.dozes


def kinds_held(connection: Any) -> set[str]:
    """The classes of all objects to which a connection leads, by name, except by what it shares
    with others and what its runtime has given it to call."""
    shared = (connection.configuration, connection.budget)
    given = (connection._issuer, connection._entropy, connection._on_crypto, connection._on_token)
    seen = {id(one) for one in shared + given}
    waiting: list[Any] = [connection]
    kinds = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | FunctionType):
            continue
        seen.add(id(one))
        kinds.add(type(one).__name__)
        if isinstance(one, msgspec.Struct):  # the collector does not look into all of them
            waiting += [getattr(one, field) for field in one.__struct_fields__]
        else:
            waiting += gc.get_referents(one)
    return kinds
