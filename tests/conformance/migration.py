"""quic-migration-tester: does a server let its clients migrate (RFC 9000 §9)?

An aioquic client waits for spare connection IDs, goes on from another port with another of them,
and looks whether the server validates the new path and still answers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.fetch import environment, sdist
from tests.conformance.outcome import Check, Outcome
from tests.conformance.service import serving

_TESTER_S = 60.0
#: Its output when all is well.
_EXPECTED = {
    "the server gives spare connection IDs": "Server supports connection ID management",
    "the connection is alive on the new path": "Connection alive after network change simulation",
    "the server validates the new path": "Detected server-initiated PATH_CHALLENGE",
    "the connection is functional afterwards": "Connection remains in CONNECTED state",
    "its verdict": "Connection migration test PASSED",
}
_WARNING = re.compile(r" - (?:WARNING|ERROR) - (.+)")


def run() -> Outcome:
    folder = sdist("migration")
    command = [sys.executable, "-m", "quic_migration_tester.main", "--no-verify"]
    with (
        tempfile.TemporaryDirectory(prefix="quicbaton-conformance-") as home,
        serving(Path(home), "tests.conformance.programs:echo") as server,
    ):
        done = subprocess.run(
            [*command, f"https://localhost:{server.port}/"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TESTER_S,
            check=False,
        )
    warned = [Check(f"no warning: {text}", passed=False) for text in _WARNING.findall(done.stdout)]
    checks = [
        Check(name, text in done.stdout, why=done.stdout[-2000:])
        for name, text in _EXPECTED.items()
    ]
    faults = [] if done.returncode == 0 else [f"exit code {done.returncode}"]
    return Outcome(checks + warned, faults)
