"""The thing that a server serves: a folder, or a program of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio import QuicConnectionProtocol
from quicbaton.asyncio.endpoint.endpoint import CreateProtocol
from quicbaton.asyncio.listener import Listener
from quicbaton.asyncio.requests import RequestCount
from quicbaton.cli import request_limits
from quicbaton.cli.importing import file_of, import_named, in_words, is_asgi_like, make
from quicbaton.cli.options.serve import FOLDER_SLEEP_AFTER_S, ProgramOptions, RequestLimits
from quicbaton.errors import ConfigurationError
from quicbaton.files import FileProtocol, Folder
from quicbaton.files.listing import Listings
from quicbaton.reasons import Reason

if TYPE_CHECKING:
    from quicbaton.asgi import Lifespan
    from quicbaton.asgi.tcp import TcpServer, TlsIdentity

#: RFC 9221 §3: DATAGRAM frames of any size that a packet can have. A program that does not use them
#: loses nothing; without them WebTransport does not work.
_MAX_DATAGRAM_BYTES: Final = 65_535


class Program(NamedTuple):
    """How connections are served. `name` is for messages."""

    name: str
    create_protocol: CreateProtocol
    health: Callable[[], Awaitable[None]] | None
    #: Changes the configuration as the program wants it; None: as it is.
    settings: Callable[[QuicConfiguration], None] | None
    #: For an ASGI program.
    lifespan: Lifespan | None = None
    #: Serves it at a TCP socket, with TLS. The number is the seconds for which connections without
    #: requests are kept. None for programs that only QUIC carries.
    over_tcp: Callable[[Listener, TlsIdentity, float], TcpServer] | None = None
    requests: RequestCount = RequestCount()

    def configure(self, configuration: QuicConfiguration) -> None:
        """Let the program choose ALPN, DATAGRAM size, windows, congestion control and any other
        setting.

        Raises ConfigurationError for a mistake of the program.
        """
        if self.settings is None:
            return
        try:
            self.settings(configuration)
        except Exception as error:
            # The boundary to the program, which may raise anything.
            raise ConfigurationError(
                f"configure() of {self.name} raised {in_words(error)}",
                code=Reason.APPLICATION,
            ) from error

    async def start(self) -> None:
        """Let the program begin. ConfigurationError when it cannot, or is not healthy."""
        if self.lifespan is not None:
            await self.lifespan.startup()
        if self.health is None:
            return
        try:
            await self.health()
        except Exception as error:
            await self.stop()
            # The boundary to the program, which may raise anything.
            raise ConfigurationError(
                f"health() of {self.name} raised {in_words(error)}",
                code=Reason.UNHEALTHY,
            ) from error

    async def stop(self) -> None:
        """Let the program clean up."""
        if self.lifespan is not None:
            await self.lifespan.shutdown()


def named_program(options: ProgramOptions) -> str | None:
    """MODULE:NAME of the program to serve; None for a folder."""
    if options.folder is not None and _names_program(options.folder):
        return str(options.folder)
    return options.app


def check_named(options: ProgramOptions) -> None:
    """ConfigurationError for a name that is neither a folder nor MODULE:NAME."""
    folder = options.folder
    if folder is not None and not folder.is_dir() and not _names_program(folder):
        raise ConfigurationError(
            f"{folder} is not a folder, nor the MODULE:NAME of a program: name one that exists"
        )


def program(options: ProgramOptions, limits: RequestLimits) -> Program:
    """The program or folder that the options name. ConfigurationError for options that it does not
    support."""
    found = _find(options, limits)
    if found.lifespan is None:
        request_limits.check_program(options, limits, found.name)
    return found


def _find(options: ProgramOptions, limits: RequestLimits) -> Program:
    named = named_program(options)
    if named is not None:
        return load_program(
            named,
            folder=options.app_dir,
            factory=options.factory,
            root_path=options.root_path,
            limit_concurrency=limits.limit_concurrency,
        )
    if options.folder is None:
        raise ConfigurationError("name a folder to serve, DIR, or a program, MODULE:NAME")
    folder = Folder(options.folder, dotfiles=options.dotfiles)
    requests = RequestCount()
    create = partial(FileProtocol, folder=folder, listings=Listings(folder), requests=requests)
    return Program(str(folder.root), create, None, None, requests=requests)


def sleep_after_s(options: ProgramOptions) -> float:
    """The silence after which connections sleep: by the options, else 10 s for a folder, and never
    for a program, which may keep a reference to the object of a connection that sleeps."""
    if options.sleep_after is not None:
        return options.sleep_after
    return 0.0 if named_program(options) is not None else FOLDER_SLEEP_AFTER_S


def load_program(
    text: str,
    *,
    folder: Path | None = None,
    factory: bool = False,
    root_path: str = "",
    limit_concurrency: int | None = None,
) -> Program:
    """MODULE:NAME: an ASGI 3 program, a QuicConnectionProtocol class, or a function that makes
    protocols; the object itself shows which. MODULE is looked for in `folder` first, else in the
    current one. `factory`: NAME is a function that is called without arguments and makes the
    program. `root_path` is where an ASGI program is mounted, `limit_concurrency` the number of
    requests on which it works at a time.

    The module of a protocol may have `async def health() -> None`, which raises when it is ill.

    The object, or its module, may have `configure(configuration)`: it gets aioquic's
    QuicConfiguration, with HTTP/3 as protocol and DATAGRAM frames allowed, and may change it.

    Raises ConfigurationError: it cannot be imported, or has no such name.
    """
    module, found = import_named(text, what="a program", code=Reason.APPLICATION, folder=folder)
    if factory:
        found = make(found, what=f"the program {text}", code=Reason.APPLICATION)
    is_asgi = _is_asgi(found)
    _check_call(text, module, found, is_asgi=is_asgi)
    chosen = None
    if not is_asgi:  # in the module of an ASGI program these names belong to its routes
        chosen = getattr(found, "configure", None) or getattr(module, "configure", None)

    def settings(configuration: QuicConfiguration) -> None:
        configuration.max_datagram_frame_size = _MAX_DATAGRAM_BYTES
        if chosen is not None:
            chosen(configuration)

    if not is_asgi:
        requests = RequestCount()
        create = partial(_create_counting, found, requests)
        health = getattr(module, "health", None)
        return Program(text, create, health, settings, requests=requests)
    return _asgi_program(text, found, settings, root_path, limit_concurrency)


def _create_counting(
    make_protocol: Callable[..., Any],
    requests: RequestCount,
    *given: Any,
    **more: Any,
) -> Any:
    protocol = make_protocol(*given, **more)
    if isinstance(protocol, QuicConnectionProtocol):  # it may be another one with its methods
        protocol.count_requests(requests)
    return protocol


def _asgi_program(
    text: str,
    found: Any,
    settings: Callable[[QuicConfiguration], None],
    root_path: str,
    limit_concurrency: int | None,
) -> Program:
    # Servers of folders and of protocols need none of these, nor HTTP/1.1, HTTP/2 and WebSockets.
    from quicbaton.asgi import AsgiProtocol, Lifespan, whole_disk  # noqa: PLC0415
    from quicbaton.asgi.concurrency import LimitedConcurrency  # noqa: PLC0415
    from quicbaton.asgi.counting import CountedRequests  # noqa: PLC0415
    from quicbaton.asgi.tcp import TcpServer  # noqa: PLC0415

    requests = RequestCount()
    found = CountedRequests(found, requests)
    if limit_concurrency is not None:
        found = LimitedConcurrency(found, limit_concurrency)
    lifespan = Lifespan(found, text)
    mounted: dict[str, Any] = {
        "application": found,
        "lifespan": lifespan,
        "root_path": root_path.rstrip("/"),
        "disk": whole_disk(),
        "requests": requests,
    }
    create = partial(AsgiProtocol, **mounted)
    over_tcp = partial(TcpServer, **mounted)
    return Program(text, create, None, settings, lifespan, over_tcp, requests)


def _names_program(folder: Path) -> bool:
    return ":" in str(folder) and not folder.is_dir()


def _is_asgi(found: Any) -> bool:
    """Whether the object is called with (scope, receive, send), and awaited."""
    if inspect.isclass(found):
        if issubclass(found, QuicConnectionProtocol):
            return False
        raise ConfigurationError(
            f"{found.__qualname__} is a class, and no QuicConnectionProtocol: name an ASGI "
            "program, which is an object or an async function, or a protocol class",
            code=Reason.APPLICATION,
        )
    return is_asgi_like(found)


def _check_call(text: str, module: ModuleType, found: Any, *, is_asgi: bool) -> None:
    """ConfigurationError for a program that cannot be called as programs of its kind are."""
    expected = "(scope, receive, send)" if is_asgi else "(connection, stream_handler=...)"
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return  # some callables of modules in C do not tell
    try:
        if is_asgi:
            signature.bind({}, None, None)
        else:
            signature.bind(None, stream_handler=None)
    except TypeError:
        has = f"{text} in {file_of(module)} takes {signature}"
        kind = "an ASGI 3 program" if is_asgi else "a function that makes protocols"
        hint = ""
        if not is_asgi and not signature.parameters:
            hint = ": if it makes the program, give --factory"
        elif not is_asgi and "environ" in signature.parameters:
            hint = ": it is a WSGI program, which an adapter such as a2wsgi makes an ASGI one"
        raise ConfigurationError(
            f"{has}, and {kind} takes {expected}{hint}", code=Reason.APPLICATION
        ) from None
