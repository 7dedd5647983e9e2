"""Starlette's and FastAPI's own tests, from their source distributions: `served_client` puts the
bridge, HTTP/3 and libcurl between their programs and their assertions."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.conformance.fetch import environment, sdist
from tests.conformance.outcome import Check, Outcome

_TESTS_S = 600.0
#: Not asked over HTTP, or of other things than responses.
_LEFT_OUT: Final = {
    "starlette": ("tests/test_testclient.py", "tests/test_websockets.py"),
    "fastapi": ("tests/test_tutorial", "tests/benchmarks", "tests/test_telemetry"),
}


def run(name: str) -> Outcome:
    """Run the tests of `starlette` or `fastapi`."""
    folder = sdist(name)
    with tempfile.TemporaryDirectory(prefix="quicbaton-conformance-") as home:
        report = Path(home, "report.xml")
        plugin = environment(XDG_STATE_HOME=home, XDG_RUNTIME_DIR=home)
        plugin["PYTHONPATH"] = f"{Path(__file__).parent}:{plugin['PYTHONPATH']}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "served_client"),
                *("-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder)),
                # The server is asyncio's; root may read what these tests forbid it to.
                *("-k", "not trio and not invalid_dir_permissions"),
                *(f"--ignore={path}" for path in _LEFT_OUT[name]),
                *(f"--junitxml={report}", "tests"),
            ],
            cwd=folder,
            env=plugin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TESTS_S,
            check=False,
        )
        if not report.exists():
            return Outcome([], [f"the tests broke off: {done.stdout[-2000:]}"])
        return Outcome([_check(case) for case in ElementTree.parse(report).iter("testcase")])


def _check(case: ElementTree.Element) -> Check:
    """A test that its authors skip, or expect to fail, is none of ours."""
    wrong = [child for child in case if child.tag in ("failure", "error")]
    name = f"{case.get('classname', '').removeprefix('tests.')}.{case.get('name')}"
    why = wrong[0].get("message", "")[:300] if wrong else ""
    return Check(name, not wrong, why)
