"""The forker: clones itself for the process at the other end of a socket, until that is closed.

Run with the socket's number, and with as many spaces as the longest command line that a clone may
have.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import msgspec

from quicbaton.service import failpoints
from tests.forker import Order, use
from tests.forker.cloning import clone, enter, show_command_line

#: Modules that most of the programs import.
_IMPORTED = (
    *("bench.bystanders", "bench.innocents", "bench.servers.neighbourhood", "demo.curl"),
    *("quicbaton.asgi", "quicbaton.asgi.tcp", "quicbaton.cli.main", "quicbaton.cli.serve"),
    *("quicbaton.cli.supervise", "quicbaton.cli.worker", "tests.clients.hostile"),
    *("tests.processes.moving_server", "uvloop"),
)
#: Programs that start others of ours: each has a forker of its own.
_STARTS_OTHERS = frozenset({"quicbaton"})
_MAX_ORDER_BYTES = 180_000  # a socket takes 200 KB by default
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    for name in _IMPORTED:
        importlib.import_module(name)
    # Memory that no collection writes to is shared with the clones.
    gc.collect()
    gc.freeze()
    while True:
        order, descriptors = _serve(channel)
        # Here is a clone.
        _lead(order)
        channel.send(b"%d" % os.getpid())
        channel.close()
        if order.host:
            enter(order.host, order.namespaces)
        if order.command[2] in _STARTS_OTHERS:
            ours, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if not os.fork():
                # Here is the clone's forker.
                ours.close()
                _hold_nothing(descriptors)
                continue
            channel.close()
            use(ours)
        break
    _take(order, descriptors)
    _run(order)


def _serve(channel: socket.socket) -> tuple[Order, list[int]]:
    """Clone; returns in each clone, with what it is to be."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, _MAX_ORDER_BYTES, _MAX_DESCRIPTORS)
        if not data:
            os._exit(0)
        try:
            if not clone():
                return msgspec.msgpack.decode(data, type=Order), descriptors
        except OSError:
            channel.send(b"0")
        _close(descriptors)


def _lead(order: Order) -> None:
    """Make the session and the process group that others may look for at once."""
    if order.new_session:
        os.setsid()
    if order.process_group >= 0:
        os.setpgid(0, order.process_group)


def _hold_nothing(descriptors: Sequence[int]) -> None:
    """Nobody is to wait for the end of what this process has open."""
    _close(descriptors)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _take(order: Order, descriptors: Sequence[int]) -> None:
    """Have the descriptors, environment and folder that a program was to be executed with."""
    # First out of the way of all targets.
    above = 1 + max(*order.targets, *descriptors)
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for descriptor in descriptors]
    _close(descriptors)
    for descriptor, target in zip(moved, order.targets, strict=True):
        os.dup2(descriptor, target)
    _close(moved)
    sys.stdin = sys.__stdin__ = _stream(0, "rb", sys.stdin)
    sys.stdout = sys.__stdout__ = _stream(1, "wb", sys.stdout)
    sys.stderr = sys.__stderr__ = _stream(2, "wb", sys.stderr)
    os.environ.clear()
    os.environ.update(order.environment)
    # The only one that is read by an import.
    failpoints.arm(os.environ.get("QUICBATON_FAILPOINT", ""))
    os.chdir(order.folder)
    path = order.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [order.folder, *filter(None, path), *sys.path[1:]]
    sys.argv[:] = order.command[2:]
    show_command_line(order.command)


def _stream(number: int, mode: str, like: Any) -> io.TextIOWrapper:
    """As the interpreter makes it when it starts."""
    unbuffered = mode == "wb" and like.write_through
    raw = open(number, mode, 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        raw,
        encoding=like.encoding,
        errors=like.errors,
        newline="\n" if mode == "wb" else None,
        line_buffering=number == 2 or os.isatty(number),
        write_through=unbuffered,
    )


def _run(order: Order) -> None:
    """Run the module as the interpreter's `-m` does, and end as the interpreter ends."""
    name = order.command[2]
    if not hasattr(sys.modules.get(name), "__path__"):
        sys.modules.pop(name, None)
    status = 0
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            status = ended.code or 0
        else:
            print(ended.code, file=sys.stderr)
            status = 1
    except KeyboardInterrupt:
        status = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        status = 1
    # But for the interpreter's own clearing up, which touches all the memory that it shares.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
