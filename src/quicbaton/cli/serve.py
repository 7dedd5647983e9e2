"""`quicbaton serve`: a folder or a program over HTTP/3, in a process that can hand its
connections over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.listener import Listener
from quicbaton.asyncio.qlog_folder import QlogFolder
from quicbaton.cli import (
    environment,
    id_forms,
    logs,
    operate,
    ports,
    request_limits,
    supervise,
    tcp,
    user_state,
)
from quicbaton.cli.control import find_cluster
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.options.sources import Sources
from quicbaton.cli.orders import report_wait
from quicbaton.cli.output import KeyLog, Output
from quicbaton.cli.program import check_named, program, sleep_after_s
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.served_certificates import ServedCertificates
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError, QuicbatonError
from quicbaton.handshake.congestion_choice import take_choice
from quicbaton.service.host import loop_factory, raise_descriptor_limit, tune_collector
from quicbaton.service.node.farewell import ProxiedEndings
from quicbaton.service.node.graceful_stop import GracefulStop
from quicbaton.service.node.node import Node
from quicbaton.service.node.operations import Operations
from quicbaton.service.node.seat import Seat, join
from quicbaton.service.node.takeover import NewProcess, Takeovers
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.acceptor import listen
from quicbaton.service.peers.cluster import KEYS_FILE
from quicbaton.service.peers.tally import Tally
from quicbaton.service.stores import open_store
from quicbaton.service.timing import LOOK_S

_MOVES: Final = logging.getLogger("quicbaton.moves")

if TYPE_CHECKING:
    from quicbaton.service.metrics import Metrics  # an extra


def add_parser(commands: Any) -> None:
    add_command(commands, "serve", ServeOptions, run, "serve a folder, or a program, over HTTP/3")


def run(sources: Sources[ServeOptions], _reporter: Reporter) -> int:
    options = sources.read()
    check(options)
    lost: Counter[str] = Counter()
    with contextlib.closing(Output(1, lost)) as out, contextlib.closing(Output(2, lost)) as log:
        reporter = Reporter(as_json=options.json, out=out)
        logs.configure(options.logs, log)
        if options.workers is not None:
            return supervise.run(sources, options, reporter, lost)
        environment.read(options.env_file)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(Server(options, reporter, lost).run())
    return 0


def check(options: ServeOptions) -> None:
    """ConfigurationError for options that do not go together."""
    check_named(options.program)
    if len(options.tls.cert) != len(options.tls.key):
        raise ConfigurationError(
            "--cert and --key go together: each certificate needs its key, in the same order"
        )
    if options.tls.client_ca is None and options.tls.client_cert == "optional":
        raise ConfigurationError(
            "--client-cert optional is about the certificates of clients: name the authority "
            "that issues them, --client-ca FILE"
        )
    request_limits.check(options)
    if options.workers is not None and (options.takeover or options.join):
        raise ConfigurationError(
            "--workers and --reload make a service of its own: --takeover and --join are for "
            "single servers"
        )
    supervise.check_workers(options)


class Server:
    """One serving process from its options to its end."""

    def __init__(self, options: ServeOptions, reporter: Reporter, lost: Counter[str]) -> None:
        # Before the program relies on the limit.
        raise_descriptor_limit()
        self._options = options
        self._reporter = reporter
        self._lost = lost
        self._cluster = find_cluster(options.cluster, serves=True)
        self._placement = operate.find_placement(options.placement, self._cluster)
        keys = options.keys
        if keys is None and self._cluster is not None:
            keys = self._cluster.folder / KEYS_FILE
        self._ring = user_state.load_keys(keys)
        self._certificates = ServedCertificates(options.tls, options.host, reporter)
        self._configuration = self._certificates.configuration
        self._program = program(options.program, options.limits)
        self._configuration.congestion_control_algorithm = options.congestion
        self._program.configure(self._configuration)
        #: The algorithm of new connections.
        self.congestion_control = take_choice(self._configuration)
        self._certificates.begin(
            over_tcp=self._program.over_tcp is not None and not options.tcp.no_tcp
        )
        self._watching: asyncio.Task[None] | None = None
        self._told_to_stop = False
        self._has_socket = False
        self._leaving: GracefulStop | None = None
        self._keylog: KeyLog | None = None

    async def run(self) -> None:
        """Serve until a signal comes or a successor has taken over."""
        tune_collector()
        loop = asyncio.get_running_loop()
        beginning = loop.create_task(self._begin())

        def on_signal() -> None:
            if self._leaving is not None:
                self._leaving.begin()
                return
            # While we wait for another process's socket, a signal may end us at once. Afterwards
            # the first signal stops the server in good order, and the second ends it at once.
            if self._told_to_stop or not self._has_socket:
                beginning.cancel()
            self._told_to_stop = True

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        try:
            await self._serve(beginning)
        finally:
            beginning.cancel()
            await self.close()

    async def _serve(self, beginning: asyncio.Task[Node]) -> None:
        node: Node | None = None

        async def tallies() -> list[Tally]:
            return [] if node is None else [node.figures.read()]

        def serve_metrics() -> Metrics | None:
            return operate.serve_metrics(
                self._options.metrics,
                tallies,
                lambda: node is not None and node.endpoint.accepts and self._leaving is None,
            )

        # A predecessor has the port until it is gone; else nothing begins without it.
        late = self._options.takeover is not None
        metrics = None if late else serve_metrics()
        try:
            node = await beginning
            if late:
                metrics = serve_metrics()
            operate.report_metrics(metrics, self._reporter)
            await self._until_over(node)
        except asyncio.CancelledError:
            if node is not None or not self._told_to_stop:
                raise
            self._reporter.event("stopped", "stopped before it served")
        finally:
            if metrics is not None:
                metrics.close()
            if node is not None:
                node.close()

    async def _begin(self) -> Node:
        await self.prepare()
        if self._options.takeover is not None:
            return await self._take_over(self._options.takeover.absolute())
        if self._options.join is not None:
            return await self._join(self._options.join.absolute())
        return self._start()

    async def prepare(self) -> None:
        """Open everything that the options name, and check that the program is healthy."""
        if self._options.qlog is not None:
            self._configuration.quic_logger = QlogFolder(self._options.qlog, self._lost)
        if self._options.tls.keylog is not None:
            self._keylog = KeyLog(_open_keylog(self._options.tls.keylog), self._lost)
            # aioquic writes to it, and flushes.
            self._configuration.secrets_log_file = cast("TextIO", self._keylog)
        self._watching = asyncio.create_task(self._certificates.watch())
        await self._program.start()

    async def close(self) -> None:
        """No client is served any more: let the program clean up, and close what `prepare`
        opened."""
        if self._watching is not None:
            self._watching.cancel()
        await self._program.stop()
        if self._keylog is not None:
            self._keylog.close()

    @property
    def program_name(self) -> str:
        """The folder or program, for people."""
        return self._program.name

    @property
    def node_number(self) -> int:
        """Our node's number in the IDs that we issue."""
        return id_forms.node_number(self._options, self._cluster)

    # --- three ways to begin --------------------------------------------------------------------

    def _start(self) -> Node:
        sock, listener = ports.open_both(self._options)
        control = self._control_path(sock.getsockname()[1])
        node = self.node(Seat(sock, self.node_number), control, listener)
        try:
            node.start()
            self._listen_for_peers(node)
        except BaseException:
            node.close()
            raise
        self._report_ready(node)
        return node

    async def _join(self, other: Path) -> Node:
        port = await ports.port_of(other)
        control = self._control_path(port)
        listener = await tcp.listener_of(self._options, other, port)
        seat = await join(other, control)
        self._has_socket = True
        node = self.node(seat, control, listener)
        try:
            node.start()
            await node.introduce(self._report_missing)
        except BaseException:
            node.close()
            raise
        self._report_ready(node)
        return node

    async def _take_over(self, other: Path) -> Node:
        port = await ports.port_of(other)
        control = self._control_path(port)
        listener = await tcp.listener_of(self._options, other, port)
        command = c.TakeOver(str(control), self._options.deadline, 0.0)
        arrival = await NewProcess.begin(other, command)
        self._has_socket = True
        node = self.node(arrival.seat, control, listener)
        # The others toss us datagrams for it as soon as they know of us.
        node.endpoint.follow(arrival.predecessor)
        try:
            await node.introduce(self._report_missing)
            answer = await arrival.settle(node, self._report_progress)
            # A process that knows an old control socket finds the new process behind it.
            for path in {other, Path(arrival.predecessor)}:
                node.also_listen(path)
        except BaseException:
            node.close()
            raise
        if arrival.seat.worker == 0:
            try:
                self._listen_for_peers(node)
            except (ConfigurationError, OSError) as error:
                # This process has the connections, and no other does.
                self._reporter.event("not_reachable", str(error), message=str(error))
        self._reporter.event(
            "took_over",
            answer.message,
            ok=answer.ok,
            code=answer.code,
            message=answer.message,
            inherited=str(other),
        )
        self._report_ready(node)
        return node

    # --- helpers, in reading order --------------------------------------------------------------

    def node(
        self,
        seat: Seat,
        control: Path,
        listener: Listener,
        *,
        supervised: bool = False,
    ) -> Node:
        """A node, not yet started, that serves with these options at a UDP socket, and at
        `listener` over TCP."""
        try:
            beside = tcp.beside(self._options, self._program, self._certificates, listener)
        except QuicbatonError:
            seat.sock.close()
            raise
        store = None if self._options.store is None else open_store(self._options.store)
        made = Node(
            seat,
            control,
            ring=self._ring,
            cluster=self._cluster,
            configuration=self._configuration,
            certificates=self._certificates.for_quic,
            create_protocol=self._program.create_protocol,
            retry=self._options.retry,
            congestion_control=self.congestion_control,
            ids=id_forms.chosen_ids(self._options, self._ring),
            sleep_after_s=sleep_after_s(self._options.program),
            memory_bytes=self._options.memory << 20,
            store=store,
            supervised=supervised,
        )
        made.put_beside(beside)
        made.requests = self._program.requests
        made.lost = self._lost
        if store is not None:
            made.closers.append(store.close)
        made.endpoint.observers.add(_MoveReporter(self._reporter))
        made.answer(Takeovers(made).handlers() | ProxiedEndings(made).handlers())
        made.closers.append(Operations(made, self._placement).close)
        return made

    def _listen_for_peers(self, node: Node) -> None:
        """Listen for other nodes. They reach processes that join our port later through this
        one."""
        if self._cluster is not None:
            node.listen_for_peers(listen(self._cluster.own_entry().listen))

    def _control_path(self, port: int) -> Path:
        if self._options.control is not None:
            return self._options.control.absolute()
        user_state.remove_dead_sockets(port)
        return user_state.runtime_folder() / f"{port}-{os.getpid()}.sock"

    def _report_missing(self, number: int, error: QuicbatonError) -> None:
        self._reporter.event(
            "not_introduced",
            f"worker {number} cannot be reached: {error}",
            worker=number,
            message=str(error),
        )

    async def _until_over(self, node: Node) -> None:
        """Return when a successor has taken over, or when we were told to stop and have. A second
        signal ends it at once."""
        leaving = GracefulStop(node, self._options.supervision.grace)
        node.answer(leaving.handlers())
        self._leaving = leaving
        if self._told_to_stop:
            leaving.begin()
        waits = asyncio.ensure_future(self._report_waits(leaving))
        over = asyncio.ensure_future(leaving.over.wait())
        succeeded = asyncio.ensure_future(node.succeeded.wait())
        await asyncio.wait((over, succeeded), return_when=asyncio.FIRST_COMPLETED)
        if succeeded.done():
            self._reporter.event("succeeded", "a successor has taken over; this process ends")
        else:
            self._reporter.event("stopped", "stopped: connections are closed")
        for waiter in (over, succeeded, waits):
            waiter.cancel()

    async def _report_waits(self, leaving: GracefulStop) -> None:
        """Say once a second what a stop waits for."""
        await leaving.begun.wait()
        self._reporter.event("stopping", "no new clients; running requests end")
        while True:
            await asyncio.sleep(LOOK_S)
            if leaving.waits_for:
                report_wait(self._reporter, leaving.waits_for, leaving.until_s - time.monotonic())

    def _report_ready(self, node: Node) -> None:
        address = node.endpoint.udp.address
        port = int(address[1])
        trust = self._certificates.first.certificate
        over_tcp = node.beside.listener is not None
        served = tcp.describe(over_tcp=over_tcp)
        lines = [f"serving {self._program.name} at https://localhost:{port}/ over {served}"]
        if not self._options.tls.cert:
            lines += tcp.trust_lines(trust, port, over_tcp=over_tcp)
        lines.append(f"  control      {node.name}")
        if len(node.workers) > 1:
            lines.append(f"  worker       {node.endpoint.table.place.worker} of several")
        if self._cluster is not None:
            lines.append(f"  node         {node.names.remote}, others reach it over TLS")
        lines.append(f"  early data   {node.endpoint.early_data}")
        self._reporter.event(
            "ready",
            "\n".join(lines),
            port=port,
            control=node.name,
            certificate=str(trust),
            pid=os.getpid(),
            worker=node.endpoint.table.place.worker,
            early_data=node.endpoint.early_data,
            tcp=over_tcp,
        )

    def _report_progress(self, progress: c.Progress) -> None:
        waiting = "".join(f"\n  waits: {reason}" for reason in progress.waiting)
        self._reporter.event(
            "progress",
            f"{counted(progress.moved, 'connection')} moved, {progress.left} left{waiting}",
            moved=progress.moved,
            left=progress.left,
            waiting=progress.waiting,
        )


class _MoveReporter(Observer):
    """Reports connections that come and go, at the log's level `debug`."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_given(self, connection_id: bytes) -> None:
        self._tell("given", connection_id, "went to another process")

    def on_resumed(self, connection_id: bytes) -> None:
        self._tell("resumed", connection_id, "came here")

    def _tell(self, event: str, connection_id: bytes, what: str) -> None:
        if not _MOVES.isEnabledFor(logging.DEBUG):
            return
        name = connection_id.hex()
        text = f"connection {name} {what}"
        self._reporter.event(event, text, connection=name, at_ns=time.monotonic_ns())


def _open_keylog(path: Path) -> TextIO:
    """Open the file for appending. A new file is readable for its owner alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "a", buffering=1, encoding="ascii")
