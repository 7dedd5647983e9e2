"""Moving a connection through bytes, at any moment."""

from __future__ import annotations

import os

from quicbaton.errors import CallerError, RefusedError
from quicbaton.http3 import H3Connection
from quicbaton.reasons import Reason
from quicbaton.testing.end import Application, End
from quicbaton.transport.connection import Connection


def move(
    end: End, *, transit_s: float = 0.0, begin_cutover: bool = False, other_host: bool = False
) -> End:
    """Carry everything of `end` into a new owner and let its pair go on with that; returns it.

    Transport, HTTP/3, undelivered events and the application's bytes are encoded, sealed, opened
    and decoded; the new owner is a worker with an ID issuer and entropy of its own. The old end's
    connection raises GivenAwayError from now on.

        server = move(server)

    For `transit_s` the pair runs on while no process owns the connection; the new owner processes
    the datagrams of that time before anything else. `begin_cutover` issues new connection IDs and
    asks the peer to retire all earlier ones. `other_host` moves the connection to a host whose
    clock shows another time, hours apart. That host learns from the old one, which counts by its
    own clock, how long the connection stood still. The application's open files go along, but not
    to another host.

    Raises RefusedError, with everything as it was, for an end that cannot be moved: its handshake
    is not over (`not_ready`), it is closing (`closed`), its application refuses, or a cutover is
    wanted while another is open (`cutover_pending`).
    """
    pair = end.pair
    old = end.connection
    if end.kind == "aioquic":
        raise CallerError("an aioquic connection cannot be moved: make the end a quicbaton one")
    if end.frozen:
        raise CallerError("this end has been moved; move() returned the one to go on with")
    if not isinstance(old, Connection):
        raise RefusedError("the handshake is not over", code=Reason.NOT_READY)
    if begin_cutover and old.cutover_pending:
        raise RefusedError(
            "the peer has not answered the last cutover", code=Reason.CUTOVER_PENDING
        )
    application, http = end.application, end.http
    exported = b""
    descriptors: list[int] = []
    if application is not None:
        exported = application.export_state()
        descriptors = [] if other_host else _copies(application)
        http = http or getattr(application, "_http", None)
    configuration = old.configuration
    baton = pair.cluster.pack(old, now=pair.now, http=http, application=exported, term=end.term + 1)
    end.frozen = True
    end.let_go()
    if transit_s:
        pair.run(seconds=transit_s)

    new = End(
        end.side,
        end.kind,
        end.address,
        pair=pair,
        issuer=end.issuer,
        entropy=end.entropy,
        create=end.create,
        algorithm=end.algorithm,
    )
    unpacked = pair.cluster.unpack(
        baton,
        now=pair.now,
        configuration=configuration,
        http_class=type(http) if isinstance(http, H3Connection) else None,
        on_crypto=new.on_crypto if end.side == "client" else None,
        other_host=other_host,
    )
    new.term = unpacked.term
    new.peer_cid_bytes = end.peer_cid_bytes
    new.resume(unpacked.connection, unpacked.http, unpacked.application, descriptors)
    if begin_cutover:
        unpacked.connection.begin_cutover()
    pair.replace(new)
    for data, source in end.strays:
        new.receive(data, source, pair.now)
    new.process()
    return new


def _copies(application: Application) -> list[int]:
    """Copies of the application's descriptors, as the kernel makes them when it passes them."""
    export = getattr(application, "export_descriptors", None)
    return [] if export is None else [os.dup(descriptor) for descriptor in export()]
