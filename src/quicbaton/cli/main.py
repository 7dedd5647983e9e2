"""The `quicbaton` command."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn

from quicbaton.build import is_compiled, version
from quicbaton.cli.exit_status import INTERRUPTED, NOT_UNDERSTOOD
from quicbaton.cli.options.argument import CommandOptions
from quicbaton.cli.options.sources import Sources
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import QuicbatonError
from quicbaton.reasons import Reason

#: The modules here, in the order of the help, and their commands. A process imports only the module
#: of its own command: all of them, with their imports, take several times as long.
COMMANDS: Final = {
    "serve": ("serve",),
    "check": ("check",),
    "service": ("reload", "stop", "workers"),
    "scale": ("scale",),
    "upgrade": ("upgrade",),
    "drain": ("drain", "rebalance"),
    "top": ("top",),
    "get": ("get",),
    "connections": ("ps", "handoff", "save", "resume"),
    "inspection": ("inspect",),
    "timeline": ("timeline",),
    "keys": ("keys",),
}


def main(
    arguments: Sequence[str] | None = None, *, begin: Callable[[], object] = lambda: None
) -> int:
    """Run one command: 0 when it succeeded, 1 when it failed, 2 when it was not understood, 130
    when Ctrl-C ended it. `begin` is called when its modules are imported."""
    arguments = sys.argv[1:] if arguments is None else arguments
    reporter = Reporter(as_json="--json" in arguments)
    # aioquic warns of every handshake that fails; our own messages have the reasons that matter.
    logging.getLogger("quic").addHandler(logging.NullHandler())
    try:
        options, run = parse(arguments)
        reporter.as_json = options.json
        begin()
        return run(reporter)
    except QuicbatonError as error:
        reporter.error(error.code, str(error))
        return NOT_UNDERSTOOD if error.code is Reason.USAGE else 1
    except BrokenPipeError:
        # The reader of our output has gone: `quicbaton ps | head` is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reporter.error(Reason.OS, f"{error.filename or 'the system'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt as interrupt:
        # Python warns of a coroutine that it has kept from beginning, which its traceback holds.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            interrupt.__traceback__ = None
        return INTERRUPTED


def parse(arguments: Sequence[str]) -> tuple[CommandOptions, Callable[[Reporter], int]]:
    """The command's options, and the function that runs it. A command that has a configuration file
    gets the sources of its options, which it may read again.

    Raises ConfigurationError for what the environment or the file says wrongly, and SystemExit for
    arguments.
    """
    kind_of_parser = _JsonParser if "--json" in arguments else argparse.ArgumentParser
    parser = parser_of(arguments[0] if arguments else "", kind_of_parser)
    given = vars(parser.parse_args(arguments))
    kind, run = given.pop("command")
    sources: Sources[CommandOptions] = Sources(kind, given)
    options = sources.read()
    return options, partial(run, sources if sources.has_file else options)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **_options: Any) -> None:
        print(f"{version()} (compiled)" if is_compiled() else version())
        parser.exit()


class _JsonParser(argparse.ArgumentParser):
    """Says as JSON what it does not understand."""

    def error(self, message: str) -> NoReturn:
        Reporter(as_json=True).error(Reason.USAGE, message, usage=self.format_usage().strip())
        self.exit(NOT_UNDERSTOOD)


def parser_of(
    command: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """The parser of one command; if `command` names none, the parser of all, for the help."""
    parser = kind(
        prog="quicbaton",
        description="Move a live QUIC connection to another process; the client sees nothing.",
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show program's version number and exit",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    modules = [name for name, its in COMMANDS.items() if command in its] or COMMANDS
    for name in modules:
        importlib.import_module(f"quicbaton.cli.{name}").add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
