"""A program's state of one connection, taken out of its objects and put into new ones.

Any exception of an application's `export_state` or `import_state` becomes a RefusedError: its
mistake keeps a connection from moving, or from sleeping; it does not end it.
"""

from __future__ import annotations

from collections.abc import Collection

from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.errors import QuicbatonError, RefusedError
from quicbaton.http3 import export_state, restore
from quicbaton.http3.state import Http3State
from quicbaton.limits import MAX_PASSED_DESCRIPTORS
from quicbaton.reasons import Reason
from quicbaton.transport.connection import Connection


def export_program(
    protocol: QuicConnectionProtocol, left: Collection[int] = (), *, passes_on: bool = False
) -> tuple[bytes, Http3State | None]:
    """The application's bytes and HTTP/3's state, without the streams `left`, which go on with
    these objects. They stay as they are. `passes_on`: streams that are relayed to here will be
    passed on.

    Raises RefusedError for state that cannot be exported, or with `export_failed` for a mistake of
    the application.
    """
    protocol.check_exportable(left, passes_on=passes_on)
    try:
        application = protocol.export_state()
    except QuicbatonError:
        raise
    except Exception as error:
        raise _blame(protocol, "export_state", error, Reason.EXPORT_FAILED) from error
    if not isinstance(application, bytes):
        raise RefusedError(
            f"{type(protocol).__name__}.export_state must return bytes, not "
            f"{type(application).__name__}",
            code=Reason.EXPORT_FAILED,
        )
    return application, None if protocol._http is None else export_state(protocol._http, left)


def export_descriptors(protocol: QuicConnectionProtocol) -> list[int]:
    """The open files that go along with the result of `export_program`; none of them where there
    are too many. They stay the protocol's.

    Raises RefusedError with the code `export_failed` for a mistake of the application.
    """
    try:
        descriptors = [int(descriptor) for descriptor in protocol.export_descriptors()]
    except QuicbatonError:
        raise
    except Exception as error:
        raise _blame(protocol, "export_descriptors", error, Reason.EXPORT_FAILED) from error
    return descriptors if len(descriptors) <= MAX_PASSED_DESCRIPTORS else []


def import_program(
    protocol: QuicConnectionProtocol,
    connection: Connection,
    http3: Http3State | None,
    application: bytes,
    descriptors: list[int],
) -> None:
    """Let a new `protocol` go on where the exported one stopped. It owns `descriptors` from here
    on, even if this fails.

    Raises RefusedError with the code `import_failed` for a mistake of the application. The caller
    then ends the protocol by `connection_left`.
    """
    try:
        if descriptors:
            protocol.import_descriptors(descriptors)
    except Exception as error:
        raise _blame(protocol, "import_descriptors", error, Reason.IMPORT_FAILED) from error
    if http3 is not None:
        protocol._http = restore(connection, http3)
    try:
        protocol.import_state(application)
    except QuicbatonError:
        raise
    except Exception as error:
        raise _blame(protocol, "import_state", error, Reason.IMPORT_FAILED) from error


def _blame(
    protocol: QuicConnectionProtocol, method: str, error: Exception, code: Reason
) -> RefusedError:
    # Not the error's text, which may quote the application's data: a peer reads this.
    return RefusedError(
        f"{type(protocol).__name__}.{method} raised {type(error).__name__}: fix it there",
        code=code,
    )
