"""A connection put away within its process: the three parts of a snapshot, and no baton.

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
    """The whole state of a sleeping connection."""

    connection: ConnectionState
    #: The process's clock at connection time zero, exactly: connection time goes on as if awake.
    origin_s: float
    http3: Http3State | None
    application: bytes


class Asleep(NamedTuple):
    """A sleeping connection's bytes, and the latest time to wake it; None: only a datagram does."""

    payload: bytes
    wake_at_s: float | None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Nap)


def put_to_sleep(
    connection: Connection, http3: Http3State | None, application: bytes, now: float
) -> Asleep:
    """Encode a connection; the object is spent.

    Raises RefusedError, with the connection unharmed, while the connection has something to do. The
    code is the one that `Connection.why_awake` gives.
    """
    resting = connection.sleep(now)
    nap = Nap(resting.state, resting.origin_s, http3, application)
    return Asleep(_ENCODER.encode(nap), resting.wake_at_s)


def decode_nap(payload: bytes) -> Nap:
    """Decode the payload that `put_to_sleep` has made."""
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
    """The connection as it was. Its owner is the same, so it sends on where it stopped."""
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
