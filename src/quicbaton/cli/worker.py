"""`python -m quicbaton.cli.worker ASSIGNMENT OPTIONS`: one worker of a service.

A supervisor starts it, with its own options, so that a reload reads all files that they name anew.
The worker's output before it serves waits in a file, in which the supervisor finds the reason why a
worker did not come up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from quicbaton.build import version
from quicbaton.cli import environment, logs, tcp
from quicbaton.cli.options.argument import decode_options
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.output import Output
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.serve import Server
from quicbaton.errors import QuicbatonError
from quicbaton.service.host import loop_factory, tune_collector
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat
from quicbaton.service.supervisor.worker import Assignment, Worker

_log: Final = logging.getLogger("quicbaton.worker")


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop. Returns 1 when serving does not begin."""
    reporter = _Logged(as_json=False)
    lost: Counter[str] = Counter()
    log = Output(2, lost)
    logging.getLogger("quic").addHandler(logging.NullHandler())
    try:
        assignment = Assignment.parse(arguments[0])
        options = decode_options(arguments[1], ServeOptions)
        if options.json:
            # Standard output is the supervisor's alone: whole lines of JSON. A program's own output
            # goes to standard error.
            os.dup2(2, 1)
        logs.configure(options.logs, log, worker=assignment.worker)
        environment.read(options.env_file)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(assignment, options, Server(options, reporter, lost), log))
    except QuicbatonError as error:
        reporter.error(error.code, str(error))
        return 1
    finally:
        log.close()


async def _serve(assignment: Assignment, options: ServeOptions, server: Server, log: Output) -> int:
    mine = (assignment.roster, assignment.stderr, assignment.ready, assignment.tallies)
    for descriptor in (*assignment.sockets, *mine):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    sockets = [socket.socket(fileno=descriptor) for descriptor in assignment.sockets]
    tune_collector()
    await server.prepare()
    node: Node | None = None
    try:
        node = server.node(
            Seat(sockets[assignment.worker], server.node_number, assignment.worker),
            assignment.own_control,
            tcp.assigned(assignment.listener, assignment.no_listener),
            supervised=True,
        )
        try:
            worker = Worker(
                node,
                sockets,
                assignment.roster,
                version=version(),
                grace_s=options.supervision.grace,
                on_begin=lambda: _speak_up(assignment.stderr, log, as_json=options.json),
                place=assignment.tally_place,
            )
            os.close(assignment.ready)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, worker.leave)
            await worker.until_over()
        finally:
            node.close()
    finally:
        await server.close()
        if node is not None:
            # For the last time: with the lines that their reader does not take in time.
            log.close()
            node.figures.read()
    return 1 if worker.failed else 0


def _speak_up(stderr: int, log: Output, *, as_json: bool) -> None:
    """From now on standard error is the service's; the output so far goes there, too."""
    sys.stderr.flush()
    said = os.pread(2, os.fstat(2).st_size, 0)
    os.dup2(stderr, 2)
    log.write(said.decode(errors="replace"))
    if as_json:
        os.dup2(stderr, 1)
    os.close(stderr)


class _Logged(Reporter):
    """Writes a worker's events to the service's log. One connection's moves are logged at debug."""

    def event(self, name: str, text: str, **fields: Any) -> None:
        _log.log(logging.DEBUG if "connection" in fields else logging.WARNING, "%s", text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
