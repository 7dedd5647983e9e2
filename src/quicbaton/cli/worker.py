"""`python -m quicbaton.cli.worker ASSIGNMENT serve ...`: one worker of a service.

A supervisor starts it, with its own arguments, so that a reload reads them and all that they name
anew. Nothing that the worker says before it serves goes to the terminal: the supervisor reads it,
to say why a worker did not come up.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import version

from quicbaton.asyncio.host import loop_factory, tune_collector
from quicbaton.asyncio.supervisor.worker import Assignment, Worker
from quicbaton.cli import environment, logs, tcp
from quicbaton.cli.main import parse
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.serve import Server
from quicbaton.errors import QuicbatonError


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; 1 when that does not begin."""
    assignment = Assignment.parse(arguments[0])
    options = parse(arguments[1:])
    reporter = Reporter(as_json=False)
    logging.getLogger("quic").addHandler(logging.NullHandler())
    try:
        logs.configure(options, worker=assignment.slot)
        environment.read(options.env_file)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(assignment, options, reporter))
    except QuicbatonError as error:
        reporter.error(error.code, str(error))
        return 1


async def _serve(assignment: Assignment, options: argparse.Namespace, reporter: Reporter) -> int:
    for descriptor in (*assignment.sockets, assignment.roster, assignment.stderr):
        os.set_inheritable(descriptor, False)
    sockets = [socket.socket(fileno=descriptor) for descriptor in assignment.sockets]
    tune_collector()
    server = Server(options, reporter)
    await server.prepare()
    try:
        node = server.node(
            sockets[assignment.slot],
            assignment.own_control,
            server.node_number,
            assignment.slot,
            {},
            tcp.assigned(assignment.listener, assignment.no_listener),
        )
        try:
            worker = Worker(
                node,
                sockets,
                assignment.roster,
                version=version("quicbaton"),
                grace_s=options.grace,
                on_begin=lambda: _speak_up(assignment.stderr),
            )
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, worker.leave)
            await worker.until_over()
        finally:
            node.close()
    finally:
        await server.close()
    return 1 if worker.failed else 0


def _speak_up(stderr: int) -> None:
    """From now on standard error is the service's."""
    os.dup2(stderr, 2)
    os.close(stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
