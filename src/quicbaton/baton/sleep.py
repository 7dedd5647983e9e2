"""A connection put away within its process: the same three things as a snapshot, and no baton.

Nothing is handed over, so nothing is sealed, no term changes and no transit is measured. The bytes
hold keys: they never leave the process, and are woken once.

    asleep = put_to_sleep(connection, http3, application, now)
    ...
    nap = decode_nap(asleep.payload)
    connection = wake(nap, issuer=ids, entropy=os.urandom)
    http = None if nap.http3 is None else restore(connection, nap.http3)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from quicbaton.http3.state import Http3State
from quicbaton.transport import qlog
from quicbaton.transport.budget import MemoryBudget
from quicbaton.transport.connection import Connection
from quicbaton.transport.paths.ids import IdIssuer
from quicbaton.transport.state import ConnectionState


class Nap(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """All of a sleeping connection."""

    connection: ConnectionState
    #: The process's clock at connection time zero, to the bit: time goes on as if awake.
    origin_s: float
    http3: Http3State | None
    application: bytes


class Asleep(NamedTuple):
    """A connection's bytes, and when it must be woken at the latest; None: only by a datagram."""

    payload: bytes
    wake_at_s: float | None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Nap)


def put_to_sleep(
    connection: Connection, http3: Http3State | None, application: bytes, now: float
) -> Asleep:
    """Put a connection away; the object is spent.

    Raises RefusedError, the connection unharmed, while it has something to do: the code is what
    `Connection.why_awake` says.
    """
    resting = connection.sleep(now)
    nap = Nap(resting.state, resting.origin_s, http3, application)
    return Asleep(_ENCODER.encode(nap), resting.wake_at_s)


def decode_nap(payload: bytes) -> Nap:
    """What `put_to_sleep` put away."""
    return _DECODER.decode(payload)


def wake(
    nap: Nap,
    *,
    issuer: IdIssuer,
    entropy: Callable[[int], bytes],
    budget: MemoryBudget | None = None,
    configuration: Any = None,
    on_crypto: Callable[[bytes], None] | None = None,
    trace: qlog.Trace | None = None,
) -> Connection:
    """The connection as it was; it has the same owner, so it sends on where it stopped."""
    connection = Connection(
        nap.connection,
        origin_s=nap.origin_s,
        issuer=issuer,
        entropy=entropy,
        budget=budget,
        configuration=configuration,
        on_crypto=on_crypto,
        trace=trace,
    )
    if trace is not None:
        qlog.log_owner(trace, "awake", nap.connection)
    return connection
