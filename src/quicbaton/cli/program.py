"""What a server serves: a folder, or a program of the user's own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import ModuleType
from typing import Any, Final, NamedTuple

from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio.endpoint.endpoint import CreateProtocol
from quicbaton.errors import ConfigurationError
from quicbaton.files import FileProtocol, Folder
from quicbaton.files.listing import Listings

#: Long enough for a client that thinks between two requests.
_FOLDER_SLEEP_AFTER_S: Final = 10.0
#: RFC 9221 §3: DATAGRAM frames of any size that a packet can have. A program that makes nothing of
#: them loses nothing; without it WebTransport does not work.
_MAX_DATAGRAM_BYTES: Final = 65_535


class Program(NamedTuple):
    """How connections are served; `name` is for people."""

    name: str
    create_protocol: CreateProtocol
    health: Callable[[], Awaitable[None]] | None
    #: Sets what the program wants otherwise than we would have it; None: nothing.
    settings: Callable[[QuicConfiguration], None] | None

    def configure(self, configuration: QuicConfiguration) -> None:
        """Let the program choose ALPN, DATAGRAM size, windows and whatever else is in there.

        Raises ConfigurationError for a mistake of the program.
        """
        if self.settings is None:
            return
        try:
            self.settings(configuration)
        except Exception as error:
            # The boundary to the program, which may raise anything.
            raise ConfigurationError(
                f"configure() of {self.name} raised {type(error).__name__}: {error}",
                code="application",
            ) from error

    async def check(self) -> None:
        """ConfigurationError when the program says that it is not healthy."""
        if self.health is None:
            return
        try:
            await self.health()
        except Exception as error:
            # The boundary to the program, which may raise anything.
            raise ConfigurationError(
                f"health() of {self.name} raised {type(error).__name__}: {error}",
                code="unhealthy",
            ) from error


def program(options: argparse.Namespace) -> Program:
    """What the options name."""
    if options.app is not None:
        return load_program(options.app)
    folder = Folder(options.folder, dotfiles=options.dotfiles)
    create = partial(FileProtocol, folder=folder, listings=Listings(folder))
    return Program(str(folder.root), create, None, None)


def sleep_after_s(options: argparse.Namespace) -> float:
    """When silent connections sleep: what the options say, else 10 s for a folder, and never for
    a program, which may hold on to the object of a connection that sleeps."""
    if options.sleep_after is not None:
        return float(options.sleep_after)
    return 0.0 if options.app is not None else _FOLDER_SLEEP_AFTER_S


def load_program(text: str) -> Program:
    """MODULE:NAME. The module may have `async def health() -> None`, which raises when it is ill.

    What is named, or the module, may have `configure(configuration)`: it gets aioquic's
    QuicConfiguration, with HTTP/3 as protocol and DATAGRAM frames allowed, and changes what it
    wants otherwise.

    Raises ConfigurationError: it cannot be imported, or has no such name.
    """
    module, found = import_named(text, what="--app", code="application")
    chosen = getattr(found, "configure", None) or getattr(module, "configure", None)

    def settings(configuration: QuicConfiguration) -> None:
        configuration.max_datagram_frame_size = _MAX_DATAGRAM_BYTES
        if chosen is not None:
            chosen(configuration)

    return Program(text, found, getattr(module, "health", None), settings)


def import_named(text: str, *, what: str, code: str) -> tuple[ModuleType, Callable[..., Any]]:
    """The module and the class or function that MODULE:NAME says, for the option `what`.

    Raises ConfigurationError with `code`: it cannot be imported, or has no such name.
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ConfigurationError(f"{what} is MODULE:NAME, got {text!r}", code=code)
    if os.getcwd() not in sys.path:
        # As `python -m` does it.
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # The boundary to the program: to import it is to run it.
        raise ConfigurationError(
            f"cannot import {module_name}: {type(error).__name__}: {error}", code=code
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigurationError(f"{module_name} has no class or function {name!r}", code=code)
    return module, found
