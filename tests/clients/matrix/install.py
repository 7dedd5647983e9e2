"""Fetches the clients: `python -m tests.clients.matrix.install`. Installed ones are left alone.

Libraries go to `.clients`, each group to an environment of its own. Browsers and gtlsclient are
Debian's packages: they are installed if we are root; otherwise their names are printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.clients.matrix.roster import CACHE

_PYTHON = ["aioquic>=1.2", "curl_cffi>=0.13", "niquests>=3.14", "pycurl>=7.45.7", "qh3>=1.5"]
_BROWSERS = ["websockets>=13"]
_PYTHON_3_12 = ["aiopquic>=0.6", "aioquic>=1.2"]
_NODE = ["@oven/bun-linux-x64@^1.4", "@deno/linux-x64-glibc@^2.9", "playwright-core@^1.50"]
_DEBIAN = ["chromium", "firefox-esr", "libnss3-tools", "ngtcp2-client"]


class MissingError(Exception):
    """A group of clients cannot be had here; why, and what to do."""


def install() -> list[str]:
    """Fetch everything; what could not be had."""
    CACHE.mkdir(exist_ok=True)
    missing = []
    for name, needs, make in (
        ("python", [*_PYTHON, *_BROWSERS], _install_python),
        ("python312", _PYTHON_3_12, _install_python_3_12),
        ("node", _NODE, _install_node),
        ("debian", _DEBIAN, _install_debian),
    ):
        stamp = CACHE / f"{name}.stamp"
        wanted = "\n".join(needs)
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        print(f"fetching clients: {', '.join(needs)}", flush=True)
        try:
            make(needs)
        except MissingError as error:
            missing.append(f"{name}: {error}")
        except subprocess.CalledProcessError as error:
            missing.append(f"{name}: {error}\n{error.stdout}")
        else:
            stamp.write_text(wanted)
    return missing


def _install_python(needs: list[str]) -> None:
    _make_environment(sys.executable, CACHE / "python", needs)


def _install_python_3_12(needs: list[str]) -> None:
    """aiopquic's wheels begin there."""
    for python in _pythons():
        newer = "import sys, ensurepip; sys.exit(sys.version_info < (3, 12))"
        if subprocess.run([python, "-c", newer], check=False, capture_output=True).returncode == 0:
            _make_environment(python, CACHE / "python312", needs)
            return
    raise MissingError("aiopquic needs Python 3.12 or newer, and there is none")


def _pythons() -> Iterator[str]:
    """Interpreters that may be there, by name and under pyenv."""
    yield sys.executable
    for minor in (12, 13, 14):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True, check=True)
        for folder in sorted(Path(root.stdout.strip(), "versions").glob("3.1[2-9]*")):
            yield str(folder / "bin" / "python")


def _make_environment(python: str, folder: Path, needs: list[str]) -> None:
    _run([python, "-m", "venv", "--clear", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", *needs])


def _install_node(needs: list[str]) -> None:
    if not shutil.which("npm"):
        raise MissingError("bun, deno and playwright-core need npm (Debian: apt install npm)")
    # Without scripts: the packages bring their programs.
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
    _run(["npm", "install", *options, "--prefix", str(CACHE), *needs])


def _install_debian(needs: list[str]) -> None:
    absent = [name for name in needs if not _is_installed(name)]
    if not absent:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise MissingError(f"not installed: {', '.join(absent)} (as root: {' '.join(command)})")
    _run(["apt-get", "update"])
    _run(command, environment={"DEBIAN_FRONTEND": "noninteractive"})


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    if not shutil.which("dpkg-query"):
        return False
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout == "installed"


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def main() -> int:
    missing = install()
    for what in missing:
        print(f"missing: {what}", file=sys.stderr)
    # In CI nothing may be missing; elsewhere the matrix says which rows could not be had.
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
