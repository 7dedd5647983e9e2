"""Startup and shutdown of a program (ASGI lifespan 2.0)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from quicbaton.asgi.scope import Application, Message
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

#: How long a program may take to clean up, and then to return.
_SHUTDOWN_S: Final = 30.0
_RETURN_S: Final = 1.0

_LOG: Final = logging.getLogger("quicbaton.asgi")


class Lifespan:
    """Runs the program's lifespan beside its requests. `state` is the dict that the program fills
    at startup; each request gets a copy of it."""

    def __init__(self, application: Application, name: str) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure = ""

    async def startup(self) -> None:
        """Return when the program is ready; at once if it knows of no lifespan.

        Raises ConfigurationError (`lifespan`) when the program says that its startup failed.
        """
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run())
        await self._started.wait()
        if self._failure:
            raise ConfigurationError(
                f"the startup of {self._name} failed: {self._failure}", code=Reason.LIFESPAN
            )

    async def shutdown(self) -> None:
        """Return when the program has cleaned up, has already ended, or takes too long. A program
        whose startup failed or has not ended has nothing to clean up: it is cancelled."""
        task = self._task
        if task is None:
            return
        is_up = self._started.is_set() and not self._failure
        if is_up and not task.done():
            self._inbox.put_nowait({"type": "lifespan.shutdown"})
            try:
                await asyncio.wait_for(self._stopped.wait(), _SHUTDOWN_S)
            except TimeoutError:
                _LOG.error("the shutdown of %s takes longer than %g s", self._name, _SHUTDOWN_S)
        # Some programs wait for a further message, which never comes.
        await asyncio.wait((task,), timeout=_RETURN_S if is_up else 0)
        task.cancel()
        await asyncio.wait((task,))

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            await self._application({**scope, "state": self.state}, self._inbox.get, self._send)
        except Exception as error:
            # The boundary to the program. Before its first answer, an error means that it knows of
            # no lifespan. Afterwards it is a mistake, and belongs into the log.
            if self._started.is_set():
                _LOG.error("the lifespan of %s ended early", self._name, exc_info=error)
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._started.set()
            case "lifespan.startup.failed":
                self._failure = message.get("message", "") or "it does not say why"
                self._started.set()
            case "lifespan.shutdown.complete":
                self._stopped.set()
            case "lifespan.shutdown.failed":
                _LOG.error("the shutdown of %s failed: %s", self._name, message.get("message", ""))
                self._stopped.set()
