"""aioquic's own tests of HTTP/3, from its source distribution, run against ours.

    python -m tests.http3.aioquic_suite

pip fetches the sdist of the installed version into .aioquic/ once. In test_h3 and test_webtransport
the imports of `aioquic.h3` become those of `quicbaton.http3`, and nothing else is changed. Failures
must be listed in `aioquic_differences`, and passing tests must not.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import unittest
from importlib.metadata import version
from pathlib import Path

from tests.conformance.fetch import import_tests_of
from tests.http3.aioquic_differences import DIFFERENCES

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".aioquic"
MODULES = ("test_h3", "test_webtransport")


def fetch() -> Path:
    """The folder of the sdist, whose tests are made ours."""
    name = f"aioquic-{version('aioquic')}"
    folder = CACHE / name
    if folder.is_dir():
        return folder
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-binary", ":all:", "--dest", str(CACHE)]
    subprocess.run([*pip, "download", *options, name.replace("-", "==")], check=True)
    partial = CACHE / f"{name}.partial"
    with tarfile.open(CACHE / f"{name}.tar.gz") as sdist:
        sdist.extractall(partial, filter="data")
    for module in MODULES:
        path = partial / name / "tests" / f"{module}.py"
        path.write_text(path.read_text().replace("from aioquic.h3.", "from quicbaton.http3."))
    (partial / name).rename(folder)
    partial.rmdir()
    return folder


class Result(unittest.TestResult):
    """Notes what ran, what failed and how."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[str, str] = {}

    def addError(self, test, err) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self._note(test, err)

    def addFailure(self, test, err) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self._note(test, err)

    def addSubTest(self, test, subtest, err) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        if err is not None:
            self._note(test, err)

    def _note(self, test: unittest.TestCase, err: tuple[object, BaseException, object]) -> None:
        self.failed.setdefault(
            test.id().removeprefix("tests."), f"{type(err[1]).__name__}: {err[1]}"
        )


def main() -> int:
    import_tests_of(fetch())
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames([f"tests.{module}" for module in MODULES])
    result = Result()
    suite.run(result)
    new = {name: why for name, why in result.failed.items() if name not in DIFFERENCES}
    gone = sorted(DIFFERENCES.keys() - result.failed.keys())
    for name, why in sorted(new.items()):
        print(f"FAILED {name}\n    {' '.join(why.split())[:300]}")
    for name in gone:
        print(f"PASSED, though listed as a difference: {name}")
    print(
        f"aioquic {version('aioquic')}: {result.testsRun} tests, "
        f"{len(result.failed)} failed, {len(DIFFERENCES)} of them as they should"
    )
    return 1 if new or gone or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
