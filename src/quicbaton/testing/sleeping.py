"""Putting an end to sleep: to bytes and back within its process."""

from __future__ import annotations

from quicbaton.baton.sleep import decode_nap, put_to_sleep, wake
from quicbaton.errors import CallerError, RefusedError
from quicbaton.http3 import H3Connection, export_state, restore
from quicbaton.reasons import Reason
from quicbaton.testing.end import End
from quicbaton.transport.connection import Connection


def sleep(end: End) -> None:
    """Shrink `end` to bytes. Its next datagram or deadline wakes it, and so does a read of its
    connection: the other end and the test notice no difference.

        sleep(pair.server)
        assert pair.server.asleep

    Raises RefusedError, with everything as it was, for an end that has something to do. The code is
    the one that `Connection.why_awake` gives, `not_ready` or the application's.
    """
    pair = end.pair
    if end.kind == "aioquic":
        raise CallerError("an aioquic connection cannot sleep: make the end a quicbaton one")
    if end.asleep:
        raise CallerError("this end sleeps already")
    old = end.connection
    if not isinstance(old, Connection):
        raise RefusedError("the handshake is not over", code=Reason.NOT_READY)
    why = old.why_awake(pair.now)
    if why is not None:
        raise RefusedError("the connection has something to do", code=why)
    application, http = end.application, end.http
    exported = b""
    if application is not None:
        exported = application.export_state()
        http = http or getattr(application, "_http", None)
    http3 = None if http is None else export_state(http)
    http_class = type(http) if isinstance(http, H3Connection) else H3Connection
    configuration = old.configuration
    asleep = put_to_sleep(old, http3, exported, pair.now)

    def get_up() -> None:
        nap = decode_nap(asleep.payload)
        connection = wake(
            nap,
            issuer=end.issuer,
            entropy=end.entropy,
            configuration=configuration,
            on_crypto=end.on_crypto if end.side == "client" else None,
        )
        restored = None if nap.http3 is None else restore(connection, nap.http3, http_class)
        end.get_up(connection, restored, nap.application)

    end.lie_down(asleep, get_up)
