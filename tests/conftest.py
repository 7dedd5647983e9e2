"""Fixtures that many tests share, and the tables that some tests print at the end of a run."""

import datetime
import gc
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from tests import forker
from tests.asyncio.loopback import GUARD_S, run
from tests.processes.matrix import TABLES

#: Beginnings of the names of tests whose files take longest.
_FIRST = (
    "tests/soak/",
    "tests/deploy/test_systemd.py",
    "tests/hosts/test_host_matrix.py",
    "tests/processes/test_neighbours.py",
    "tests/processes/test_files.py",
    "tests/processes/test_takeovers.py",
    "tests/files/test_file_server.py",
    "tests/supervisor/",
    "tests/hosts/",
    "tests/processes/",
    "tests/asgi/",
)
# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Where Python is to leave no bytecode beside its sources, each process of a run would compile
    everything anew: the tests' own files take ten seconds.

    Ctrl-C is for programs of the tests, too, where a shell has us in the background and ignores it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        folder = config.rootpath / ".pytest_cache" / "bytecode"
        sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(folder))
        sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that in the end no process of a run works alone."""

    def rank(item: pytest.Item) -> int:
        places = (number for number, name in enumerate(_FIRST) if item.nodeid.startswith(name))
        return next(places, len(_FIRST))

    items.sort(key=rank)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there before the first test is no garbage: `run`, which collects that of each test,
    need not look through thousands of tests again each time."""
    if any(item.get_closest_marker("process") for item in session.items):
        forker.install()
    gc.collect()
    gc.freeze()


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests that are coroutine functions run by `run`, each on a loop of its own.

    A parameter `loop_factory` makes the loop; `pytest.mark.loop` has other options of `run`.
    """
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    options = {"loop_factory": arguments.get("loop_factory")}
    if pyfuncitem.get_closest_marker("process"):
        options["guard_s"] = 5 * GUARD_S  # Processes take their time to start, many of them more.
    for marker in reversed(list(pyfuncitem.iter_markers("loop"))):
        options.update(marker.kwargs)
    run(lambda: test(**arguments), **options)
    return True


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: control sockets lie below it, and a Unix socket's path has 108 bytes."""
    with TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """A self-signed EC P-256 certificate for localhost, 127.0.0.1 and ::1: its own CA file."""
    folder = tmp_path_factory.mktemp("certificate")
    return write_self_signed(folder, datetime.datetime.now(datetime.UTC))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Several processes may run the tests: each has filled some of the tables."""
    TABLES.update(getattr(node, "workeroutput", {}).get("tables", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    forker.uninstall()
    workeroutput = getattr(session.config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput["tables"] = dict(TABLES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, text in TABLES.items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
