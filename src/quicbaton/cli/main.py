"""The `quicbaton` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from quicbaton.cli import connections, drain, get, inspection, keys, serve, service, top
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import QuicbatonError
from quicbaton.reasons import Reason

#: What a shell reports of a program that SIGINT ended.
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when it succeeded, 1 when it failed, 2 when it was not understood."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    reporter = Reporter(as_json=options.as_json)
    # aioquic warns of every handshake that fails; what matters of it is in our own messages.
    logging.getLogger("quic").addHandler(logging.NullHandler())
    try:
        code: int = options.run(options, reporter)
    except QuicbatonError as error:
        reporter.error(error.code, str(error))
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone: `quicbaton ps | head` is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reporter.error(Reason.OS, f"{error.filename or 'the system'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What the arguments mean; a supervisor gives them to its workers as they are."""
    options = _parser().parse_args(arguments)
    options.arguments = list(arguments)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quicbaton",
        description="Move a live QUIC connection to another process; the client sees nothing.",
    )
    parser.add_argument("--version", action="version", version=version("quicbaton"))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (serve, service, drain, top, get, connections, inspection, keys):
        module.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
