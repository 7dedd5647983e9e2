"""Fetches the checkers: `python -m tests.conformance.fetch`. Fetched ones are left alone.

Source distributions are unpacked into `.conformance`; packages go to `.conformance/site`, which
checkers and their programs have on their path. All are pinned, since the list of known failures is
for these versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".conformance"
SITE: Final = CACHE / "site"

SDISTS: Final = {
    "peregrine": "peregrine-server==1.2.0",
    "migration": "quic-migration-tester==0.1.0",
    "aioquic": f"aioquic=={version('aioquic')}",
    "starlette": f"starlette=={version('starlette')}",
    "fastapi": "fastapi==0.165.0",
}
PACKAGES: Final = (
    "a2wsgi==1.10.10",
    "django==5.2.19",
    "fastapi==0.165.0",
    "kosoku==0.1.0",
    # For the tests of Starlette and FastAPI.
    "dirty-equals==0.11",
    "email-validator==2.4.0",
    "flask==3.1.3",
    "httpx2==2.16.2",
    "inline-snapshot==0.36.1",
    "itsdangerous==2.2.0",
    "jinja2",
    "opentelemetry-sdk==1.45.2",
    "orjson==3.13.0",
    "pydantic-settings==2.16.3",
    "pyjwt==2.15.1",
    "python-multipart",
    "pwdlib==0.3.1",
    "pyyaml",
    "sqlmodel",
    "strawberry-graphql",
    "typer",
    "ujson",
)
#: What is changed in them, by file: each text, once, and what stands there instead.
EDITS: Final[dict[str, dict[str, list[tuple[str, str]]]]] = {
    "peregrine": {
        # 20 MB are joined from 13,000 pieces: in quadratic time, two minutes here.
        "scripts/http3-test.py": [
            ('    headers = []\n    body = b""\n', "    headers = []\n    body = bytearray()\n"),
            ("return status, dict(headers), body", "return status, dict(headers), bytes(body)"),
        ],
    },
    "aioquic": {
        # Ours instead of theirs, and the port by the name that it has here.
        "tests/test_asyncio.py": [
            ("from aioquic.asyncio.client import connect", "from quicbaton.asyncio import connect"),
            ("from aioquic.asyncio.server import serve", "from quicbaton.asyncio import serve"),
            (
                "from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler",
                "from aioquic.asyncio.protocol import QuicStreamHandler\n"
                "from quicbaton.asyncio import QuicConnectionProtocol",
            ),
            ('server._transport.get_extra_info("sockname")[1]', "server.port"),
        ],
    },
    "migration": {
        # Python before 3.12 does not understand quotes of one kind within quotes (PEP 701).
        "quic_migration_tester/main.py": [
            (f'{{transport_params["{name}"]', f"{{transport_params['{name}']")
            for name in (
                "active_connection_id_limit",
                "disable_active_migration",
                "max_idle_timeout",
            )
        ],
    },
}
_PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


class FetchError(Exception):
    """A checker cannot be had here."""


def sdist(name: str) -> Path:
    """The unpacked source distribution of a checker. Raises FetchError."""
    wanted = SDISTS[name]
    folder = CACHE / wanted.replace("==", "-")
    if folder.is_dir():
        return folder
    partial = CACHE / f"{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    # A checker that asks for a newer Python than this is read by this one, or fails in plain sight.
    options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
    _run([*_PIP, "download", *options, "--dest", str(partial), wanted], wanted)
    with tarfile.open(next(partial.glob("*.tar.gz"))) as archive:
        archive.extractall(partial, filter="data")
    unpacked = next(path for path in partial.iterdir() if path.is_dir())
    for file, edits in EDITS.get(name, {}).items():
        _edit(unpacked / file, edits)
    unpacked.rename(folder)
    shutil.rmtree(partial)
    return folder


def site() -> Path:
    """The folder with the packages that checkers need. Raises FetchError."""
    stamp = CACHE / "site.stamp"
    wanted = "\n".join(PACKAGES)
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(SITE, ignore_errors=True)
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        _run([*_PIP, "install", "--target", str(SITE), *pins, *PACKAGES], "packages")
        stamp.write_text(wanted)
    return SITE


def import_tests_of(folder: Path) -> None:
    """Have `tests` be what that folder calls so, from here on: this repository has a package of
    that name, too, which is the one that is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))


def environment(**more: str) -> dict[str, str]:
    """For programs that need those packages."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(site()), str(ROOT), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, **more}


def _edit(path: Path, edits: list[tuple[str, str]]) -> None:
    text = path.read_text()
    for old, new in edits:
        if text.count(old) != 1:
            raise FetchError(f"{path} is another than was to be edited: {old!r}")
        text = text.replace(old, new)
    path.write_text(text)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise FetchError(f"cannot fetch {what}: {done.stdout[-2000:]}")
