"""`quicbaton serve --workers N`: several workers on one UDP port, and their supervisor."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from quicbaton.asyncio.listener import Listener
from quicbaton.cli import operate, tcp, user_state
from quicbaton.cli.addresses import any_address
from quicbaton.cli.control import Server, find_cluster
from quicbaton.cli.control_names import Where, has_processes
from quicbaton.cli.fleet import ask_all
from quicbaton.cli.id_forms import chosen_ids, node_number
from quicbaton.cli.live_options import LiveOptions, supervisor_settings
from quicbaton.cli.options.argument import encode_options
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.options.sources import Sources
from quicbaton.cli.orders import Orders
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.watch import watch, watched_folders
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError, QuicbatonError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.limits import MAX_WORKERS
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.cluster import KEYS_FILE
from quicbaton.service.supervisor.adoption import (
    Found,
    find_workers,
    take_listener,
    take_sockets,
    take_tallies,
)
from quicbaton.service.supervisor.control_paths import controls_of_workers
from quicbaton.service.supervisor.group import Group, inodes
from quicbaton.service.supervisor.peer_listener import PeerListener
from quicbaton.service.supervisor.reload import Reloads
from quicbaton.service.supervisor.renewal import Renewals
from quicbaton.service.supervisor.scaling import Scaling
from quicbaton.service.supervisor.service import ServiceControl
from quicbaton.service.supervisor.service_figures import ServiceFigures
from quicbaton.service.supervisor.spawn import Spawner
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.systemd import (
    LISTENER_NAME,
    TALLIES_NAME,
    Systemd,
    socket_name,
)
from quicbaton.service.supervisor.tally_file import TallyFile
from quicbaton.service.supervisor.upgrade import Upgrades

_WORKER_MODULE: Final = "quicbaton.cli.worker"
#: The state of 0-RTT (docs/decisions/0001-early-data.md).
_EARLY_DATA: Final = "off: it would have to be single-use for all workers together"


def run(
    sources: Sources[ServeOptions],
    options: ServeOptions,
    reporter: Reporter,
    lost: Mapping[str, int],
) -> int:
    """Supervise workers until told to stop. Each reload reads the options from `sources` again.
    `lost` counts lines that could not be written."""
    return asyncio.run(_Service(sources, options, reporter, lost).run())


def check_workers(options: ServeOptions) -> None:
    """ConfigurationError for a number of workers that cannot be."""
    workers = options.workers
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise ConfigurationError(f"--workers is 1 to {MAX_WORKERS}, got {workers}")


class _Service:
    """One supervisor process from its options to its end."""

    def __init__(
        self,
        sources: Sources[ServeOptions],
        options: ServeOptions,
        reporter: Reporter,
        lost: Mapping[str, int],
    ) -> None:
        self._live = LiveOptions(sources, options)
        self._reporter = reporter
        self._lost = lost
        self._systemd = Systemd(os.environ, os.getpid())
        self._passed = self._systemd.take()
        self._lock = -1
        self._watched = watched_folders(options) if options.watch.reload else []

    @property
    def _options(self) -> ServeOptions:
        """The present ones."""
        return self._live.options

    async def run(self) -> int:
        group, found, control = await self._begin()
        options = self._options
        figures = await self._figures(found)
        spawner = Spawner(_WORKER_MODULE, [encode_options(options)], group, control, figures)
        supervisor = Supervisor(
            group,
            spawner,
            ring=self._ring,
            settings=supervisor_settings(options),
            say=self._reporter.event,
            keeper=self._systemd,
            others_may_own=options.cluster.cluster is not None or options.store is not None,
        )
        scaling = Scaling(supervisor, lambda: chosen_ids(self._options, self._ring()))
        read_again = partial(self._live.read_again, supervisor, spawner)
        reloads = Reloads(supervisor, read_again, scaling)
        orders = Orders(supervisor, reloads, self._reporter, self._systemd)
        group.steer(chosen_ids(options, self._ring()))
        self._keep_descriptors(group, figures)
        service = reception = metrics = None
        try:
            try:
                service = ServiceControl(
                    supervisor,
                    control,
                    reloads=reloads,
                    on_stop=orders.stop,
                )
                self._answer_changes(service, supervisor, reloads, scaling)
                cluster = find_cluster(options.cluster, serves=True)
                if cluster is not None:
                    reception = PeerListener(cluster, service.control, supervisor.serving)
                metrics = operate.serve_metrics(
                    options.metrics,
                    supervisor.tallies,
                    lambda: bool(supervisor.serving()) and not supervisor.stopping,
                )
                orders.obey_signals()
                try:
                    await supervisor.start(found)
                    if len(supervisor.slots) != self._live.workers:
                        await scaling.run(self._live.workers, lambda _step: None)
                except QuicbatonError:
                    if not orders.is_stopping:
                        raise
                    # A worker did not come up because it was stopped before.
                if not orders.is_stopping:
                    self._declare_unknown_dead(supervisor, found)
                    self._report_ready(supervisor, control)
                    operate.report_metrics(metrics, self._reporter)
                    self._serve(supervisor, reloads, orders, figures)
                await orders.over.wait()
            finally:
                for opened in (service, metrics, reception):
                    if opened is not None:
                        opened.close()
        except BaseException:
            # No supervisor would know of the workers. Those that were found lived without us
            # before.
            if not found:
                await supervisor.kill_all()
            raise
        finally:
            await supervisor.close()
            await spawner.remove_dead_sockets()
        self._reporter.event("stopped", "stopped: connections are closed")
        return 0

    def _serve(
        self, supervisor: Supervisor, reloads: Reloads, orders: Orders, figures: ServiceFigures
    ) -> None:
        """All workers serve: begin what goes on beside them."""
        self._systemd.ready(f"{_workers(supervisor)} serving {supervisor.group.address}")
        supervisor.spawn(self._systemd.keep_alive())
        supervisor.spawn(figures.keep_own())
        if self._options.watch.reload:
            supervisor.spawn(self._reload_on_change(orders))
        limits = self._options.limits
        if limits.limit_max_requests is not None:
            counts = limits.limit_max_requests, limits.limit_max_requests_jitter
            supervisor.spawn(Renewals(supervisor, reloads, *counts).run())

    def _answer_changes(
        self, service: ServiceControl, supervisor: Supervisor, reloads: Reloads, scaling: Scaling
    ) -> None:
        next_program = partial(self._live.next_program, supervisor.group)
        service.control.add({c.Scale: partial(self._scale, reloads, scaling)})
        service.control.add(Upgrades(supervisor, reloads, next_program).handlers())

    # --- the beginning --------------------------------------------------------------------------

    async def _begin(self) -> tuple[Group, list[Found], Path]:
        """The sockets: from living workers, from systemd, or new ones."""
        options = self._options
        kept, activated = self._passed.kept, self._passed.activated
        first = kept or activated[:1]
        port = int(first[0].getsockname()[1]) if first else options.port
        control = await self._control_path(port)
        found: list[Found] = []
        if port:
            control = self._be_the_only_one(control, port)
            found = await find_workers(control, options.supervision.silence)
        if found:
            group = await take_sockets(found)
            # The same open sockets, by other descriptors.
            for sock in (*kept, *activated):
                sock.close()
        elif first:
            group = Group.complete(first, max(self._live.workers, len(kept)))
        else:
            group = self._open_group()
        if group.listener.sock is None:
            group.listener = await self._listener(group, found)
        if not port:
            control = self._be_the_only_one(await self._control_path(group.port), group.port)
        return group, found, control

    def _open_group(self) -> Group:
        """New sockets, at a port that is free over TCP, too, if any will do."""
        options = self._options
        host = options.host or any_address()
        left = tcp.tries(options, options.port)
        while True:
            group = Group.open(host, options.port, self._live.workers)
            group.listener = tcp.listener_at(options, group.port)
            left -= 1
            if group.listener.sock is not None or not left:
                return group
            group.close()

    async def _listener(self, group: Group, found: list[Found]) -> Listener:
        """The TCP socket: from living workers, from systemd, or a new one."""
        passed = self._passed.listeners
        listener = None
        if found and tcp.may_serve_tcp(self._options):
            listener = await take_listener(found)
        if listener is None and passed and tcp.may_serve_tcp(self._options):
            listener = Listener(passed.pop(0))
        for sock in passed:
            sock.close()
        return listener or tcp.listener_at(self._options, group.port)

    async def _figures(self, found: list[Found]) -> ServiceFigures:
        """The service's figures so far: from living workers, from systemd, or none."""
        passed = self._passed.tallies
        taken = await take_tallies(found) if found else None
        if taken is not None and passed is not None:
            os.close(passed)
        former = passed if taken is None else taken
        file = TallyFile.make() if former is None else TallyFile.go_on_with(former)
        cluster = find_cluster(self._options.cluster, serves=True)
        figures = ServiceFigures(file, node_number(self._options, cluster), self._lost)
        figures.go_on({one.state.pid for one in found})
        return figures

    def _keep_descriptors(self, group: Group, figures: ServiceFigures) -> None:
        """Have systemd keep them for the next supervisor, should all processes end at once."""
        for worker, sock in enumerate(group.sockets):
            self._systemd.keep(socket_name(worker), sock.fileno())
        if group.listener.sock is not None:
            self._systemd.keep(LISTENER_NAME, group.listener.sock.fileno())
        self._systemd.keep(TALLIES_NAME, figures.file.descriptor)

    def _be_the_only_one(self, control: Path, port: int) -> Path:
        """Take a lock that ends with this process, however it ends. The control socket that it is
        for may be another than `control`, where a service at another address just begins."""
        control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = control.with_suffix(".lock")
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            named = self._named_control(port)
            if named is not None and named != control and not control.is_socket():
                return self._be_the_only_one(named, port)
            raise ConfigurationError(
                f"a supervisor has the service at {control} already: `quicbaton reload` replaces "
                "its workers, `quicbaton stop` ends it",
                code=Reason.SUPERVISED,
            ) from None
        return control

    async def _control_path(self, port: int) -> Path:
        """The control socket of the service at the port; or, where a service at another address has
        that, one that is named after our address, too."""
        if self._options.control is not None:
            return self._options.control.absolute()
        folder = user_state.runtime_folder()
        plain, named = folder / f"{port}.sock", self._named_control(port)
        if named is None or not port:
            return plain
        where = Where(self._options.host, port)
        if has_processes(folder, where):
            return named
        others = [plain, *controls_of_workers(plain)]
        addresses = await ask_all(
            [Server(path, str(path), None) for path in others if path.is_socket()],
            c.ListConnections(),
            c.Connections,
        )
        held = [found.address for _, found in addresses]
        return plain if all(map(where.is_among, held)) else named

    def _named_control(self, port: int) -> Path | None:
        """The control socket that is named after our address; None where we have all addresses, or
        a path of the user's."""
        if not self._options.host or self._options.control is not None:
            return None
        where = Where(self._options.host, port)
        return user_state.runtime_folder() / f"{where.stem}.sock"

    def _ring(self) -> KeyRing:
        """The cluster keys as they are now."""
        cluster = find_cluster(self._options.cluster, serves=True)
        keys = self._options.keys
        if keys is None and cluster is not None:
            keys = cluster.folder / KEYS_FILE
        return user_state.load_keys(keys)

    def _declare_unknown_dead(self, supervisor: Supervisor, found: list[Found]) -> None:
        """Tell the clients of workers whose rosters systemd has kept and whose deaths no supervisor
        saw."""
        living = {one.state.pid for one in found}
        for pid, (name, roster) in self._passed.rosters.items():
            if pid in living:
                os.close(roster)
            else:
                supervisor.spawn(supervisor.declare_unknown_dead(name, pid, roster))

    async def _scale(
        self, reloads: Reloads, scaling: Scaling, channel: Channel, frame: c.Scale
    ) -> c.Frame:
        async with reloads.alone("a change of the number of workers"):
            answer = await scaling.run(frame.workers, lambda step: channel.write(c.encode(step)))
        self._live.workers = frame.workers
        self._reporter.event("scaled", answer.message, workers=frame.workers)
        return answer

    async def _reload_on_change(self, orders: Orders) -> None:
        try:
            await watch(self._watched, self._reporter, partial(orders.reload, "a changed file"))
        except OSError as error:
            text = f"files are not watched any more: {error}"
            self._reporter.event("not_watched", text, message=str(error))

    # --- helpers --------------------------------------------------------------------------------

    def _report_ready(self, supervisor: Supervisor, control: Path) -> None:
        group = supervisor.group
        what = self._options.program.app or self._options.program.folder
        certificates = self._options.tls.cert
        over_tcp = group.listener.is_listening
        lines = [
            f"serving {what} at https://localhost:{group.port}/ over "
            f"{tcp.describe(over_tcp=over_tcp)} with {_workers(supervisor)}"
        ]
        trust = certificates[0] if certificates else None
        if trust is None:
            trust = user_state.local_certificate(self._options.host).certificate
            lines += tcp.trust_lines(trust, group.port, over_tcp=over_tcp)
        lines.append(f"  control      {control}")
        lines.append(f"  early data   {_EARLY_DATA}")
        if not group.steered:
            lines.append("  steering     by the workers: this kernel cannot steer")
        self._reporter.event(
            "ready",
            "\n".join(lines),
            port=group.port,
            control=str(control),
            certificate=str(trust),
            pid=os.getpid(),
            workers=len(supervisor.slots),
            steered=group.steered,
            early_data=_EARLY_DATA,
            sockets=inodes(group.sockets),
            tcp=over_tcp,
        )


def _workers(supervisor: Supervisor) -> str:
    return counted(len(supervisor.slots), "worker")
