"""Examples as their READMEs start them: the commands are taken from there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.supervisor.service_home import Service, ServiceHome, service_home

_ROOT = Path(__file__).parents[2]
_PROMPT = "$ "
#: Options beside the README's command: a free port, and output for machines.
_HERE = ("--host", "127.0.0.1", "--port", "0", "--json")


class Example:
    """An example's service, and the user that has started it."""

    def __init__(self, name: str, home: ServiceHome, environment: dict[str, str]) -> None:
        self.home = home
        self._readme = (_ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
        home.environment |= environment
        serve = self._command("quicbaton serve ")
        self.service = Service(home, home.start("quicbaton", *serve, *_HERE, folder=_ROOT))
        self.service.all_serve()

    def url(self, path: str) -> str:
        return f"https://localhost:{self.service.port}/{path}"

    def reload(self, *options: str) -> tuple[list[int], list[int]]:
        """The README's reload, with further options; the workers' pids before and after."""
        before = self.service.pids()
        done = self.home.run(*self._command("quicbaton reload"), *options, "--json")
        assert done.returncode == 0, done.stderr
        after = self.service.pids()
        assert not set(before) & set(after)
        return before, after

    def _command(self, beginning: str) -> list[str]:
        """The README's command that begins so, without `quicbaton`."""
        lines = [line.strip().removeprefix(_PROMPT) for line in self._readme.splitlines()]
        command = next(line for line in lines if line.startswith(beginning))
        return shlex.split(command, comments=True)[1:]


@contextmanager
def example(name: str, path: Path, **environment: str) -> Iterator[Example]:
    """The example of this name, ready; `path` is an empty folder for its user."""
    with service_home(path) as home:
        yield Example(name, home, environment)
