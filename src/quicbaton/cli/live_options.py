"""The options of a running service: what a reload, a change of the number of workers and an upgrade
make of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from quicbaton.cli.options.argument import encode_options
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.options.sources import Sources
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.service.supervisor.group import Group
from quicbaton.service.supervisor.reload import Reread
from quicbaton.service.supervisor.settings import Settings
from quicbaton.service.supervisor.spawn import Spawner
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.upgrade import SCALED, Begin

#: Options by which a service is the same one.
_SERVICES: Final = ("host", "port", "control", "cluster")
#: Others that a supervisor has for itself.
_SUPERVISORS: Final = ("config", "watch", "metrics", "json")


def check_reload(before: ServeOptions, now: ServeOptions) -> None:
    """ConfigurationError for changes that new workers alone would not bring about."""
    changed = _changed(before, now, (*_SERVICES, *_SUPERVISORS))
    if before.limits.limit_max_requests != now.limits.limit_max_requests:
        changed.append("limit-max-requests")
    if changed:
        raise ConfigurationError(
            f"changed since the start, and no reload can change it: {', '.join(changed)}. Nothing "
            "is replaced: `quicbaton upgrade` changes what is the supervisor's own; for another "
            "address or port start another service",
            code=Reason.NEEDS_RESTART,
        )


def check_upgrade(before: ServeOptions, now: ServeOptions) -> None:
    """ConfigurationError for changes that would make another service of this one."""
    if changed := _changed(before, now, _SERVICES):
        raise ConfigurationError(
            f"changed since the start: {', '.join(changed)}. That is another service: start it "
            "beside this one, or stop this one first",
            code=Reason.NEEDS_RESTART,
        )


def _changed(before: ServeOptions, now: ServeOptions, names: Sequence[str]) -> list[str]:
    return [name for name in names if getattr(before, name) != getattr(now, name)]


class LiveOptions:
    """The present options, and the sources from which they come."""

    def __init__(self, sources: Sources[ServeOptions], options: ServeOptions) -> None:
        self._sources = sources
        self.options = options
        #: As configured, or as `quicbaton scale` has said since.
        self.workers = int(os.environ.pop(SCALED, 0)) or options.workers or 1

    def read_again(self, supervisor: Supervisor, spawner: Spawner) -> Reread:
        """Let new workers have the options as their sources are now. ConfigurationError for what a
        new worker cannot change."""
        before, workers = self.options, self.workers
        now = self._sources.read()
        check_reload(before, now)

        def apply(options: ServeOptions, workers: int) -> None:
            self.options, self.workers = options, workers
            supervisor.settings = supervisor_settings(options)
            spawner.arguments = [encode_options(options)]

        apply(now, workers if now.workers == before.workers else now.workers or 1)
        return Reread(lambda: apply(before, workers), self.workers)

    def next_program(self, group: Group) -> Begin:
        """How the next program of this process serves the same port. ConfigurationError when it
        would serve another."""
        now = self._sources.read()
        check_upgrade(self.options, now)
        workers = self.workers if now.workers == self.options.workers else 0
        arguments = sys.argv[2:]
        if self.options.port != group.port:
            # It was any free one.
            arguments += ["--port", str(group.port)]
        return Begin(arguments, workers)


def supervisor_settings(options: ServeOptions) -> Settings:
    """The part of the options that is the supervisor's."""
    return Settings(
        health_timeout_s=options.supervision.health_timeout,
        silent_s=options.supervision.silence,
        takeover_s=options.deadline,
        grace_s=options.supervision.grace,
    )
