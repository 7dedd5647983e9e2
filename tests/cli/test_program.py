"""The attributes that `serve --app MODULE:NAME` takes from the program."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.cli.program import Program, load_program
from quicbaton.errors import ConfigurationError

_PROTOCOL = "from quicbaton.asyncio import QuicConnectionProtocol as Protocol"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Loads a program from its source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def from_source(source: str) -> Program:
        (tmp_path / "chosen_program.py").write_text(source)
        sys.modules.pop("chosen_program", None)
        return load_program("chosen_program:Protocol")

    return from_source


def configured(program: Program) -> QuicConfiguration:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    program.configure(configuration)
    return configuration


def test_a_program_may_use_datagrams_without_asking(load) -> None:  # type: ignore[no-untyped-def]
    configuration = configured(load(_PROTOCOL))
    assert configuration.max_datagram_frame_size == 65_535
    assert configuration.alpn_protocols == ["h3"]


@pytest.mark.parametrize(
    "source",
    [
        "def configure(c): c.alpn_protocols = ['echo']; c.max_data = 1 << 24\n" + _PROTOCOL,
        "from quicbaton.asyncio import QuicConnectionProtocol\n"
        "class Protocol(QuicConnectionProtocol):\n"
        "    @staticmethod\n"
        "    def configure(c): c.alpn_protocols = ['echo']; c.max_data = 1 << 24",
    ],
)
def test_a_program_chooses_protocol_and_windows(load, source: str) -> None:  # type: ignore[no-untyped-def]
    configuration = configured(load(source))
    assert configuration.alpn_protocols == ["echo"]
    assert configuration.max_data == 1 << 24


def test_a_program_that_cannot_configure_is_refused(load) -> None:  # type: ignore[no-untyped-def]
    program = load("def configure(c): raise ValueError('no such window')\n" + _PROTOCOL)
    with pytest.raises(ConfigurationError, match=r"configure\(\) of .* ValueError: no such window"):
        program.configure(QuicConfiguration(is_client=False))


_IMPORT = """
from quicbaton.cli.importing import import_named
from quicbaton.reasons import Reason
module, _ = import_named("saved_code:C", what="--app", code=Reason.APPLICATION)
print(module.VERSION)
"""


def test_code_saved_twice_in_a_second_at_one_size_is_the_code_that_runs(tmp_path: Path) -> None:
    source = tmp_path / "saved_code.py"
    # Just before it is imported, or just after, as long as an interpreter takes to start.
    saved = time.time_ns() + 3600 * 10**9
    answers = []
    for version in ("1", "2"):
        source.write_text(f"VERSION = {version}\nclass C: pass\n")
        os.utime(source, ns=(saved, saved))
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(done.stdout.strip())
    assert answers == ["1", "2"]
