"""Keys, certificate and folders that are kept for the user."""

import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509

from quicbaton.cli import user_state
from quicbaton.cli.options.serve import ProgramOptions, ServeOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.serve import Server
from quicbaton.errors import ConfigurationError
from tests.cli.command_line import GUARD_S, wait_for, waits_for_a_lock


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_made_once_and_closed_to_others() -> None:
    ring = user_state.load_keys(None)
    path = user_state.state_folder() / "cluster.keys"
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert user_state.load_keys(None).encode() == ring.encode()


def test_keys_that_others_may_read_are_refused(home: Path) -> None:
    path = home / "keys"
    path.write_text(user_state.load_keys(None).encode())
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        user_state.read_keys(path)
    path.chmod(0o600)
    assert len(user_state.read_keys(path)) == 1


def test_missing_keys_are_named(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        user_state.load_keys(home / "nowhere")


def test_the_certificate_is_reused_until_another_name_is_wanted() -> None:
    files = user_state.local_certificate("::")
    first = files.certificate.read_bytes()
    assert user_state.local_certificate("127.0.0.1").certificate.read_bytes() == first
    assert mode(files.key) == 0o600
    user_state.local_certificate("192.0.2.7")
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.7" in [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    # Wanted less again, it still has what it needs.
    assert user_state.local_certificate("::").certificate.read_bytes() != first


def test_a_folder_that_was_open_to_others_is_closed(home: Path) -> None:
    (home / "run" / "quicbaton").mkdir(parents=True, mode=0o755)
    assert mode(user_state.runtime_folder()) == 0o700


def test_a_link_in_the_place_of_the_folder_is_refused(home: Path) -> None:
    (home / "run").mkdir()
    (home / "elsewhere").mkdir()
    (home / "run" / "quicbaton").symlink_to(home / "elsewhere")
    with pytest.raises(ConfigurationError, match="not a folder of yours"):
        user_state.runtime_folder()


def test_a_certificate_and_its_key_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another server that starts makes new ones, for a host of its own."""
    others: list[subprocess.Popen[bytes]] = []
    load = QuicConfiguration.load_cert_chain

    def load_and_be_overtaken(self: QuicConfiguration, certificate: Path, key: Path) -> None:
        load(self, certificate, key)
        code = "from quicbaton.cli import user_state; user_state.local_certificate('other.host')"
        others.append(subprocess.Popen([sys.executable, "-c", code]))
        wait_for(lambda: others[0].poll() is not None or waits_for_a_lock(others[0].pid), bool)
        # The key's turn.
        loaded = self.certificate
        load(self, certificate, key)
        self.certificate = loaded

    monkeypatch.setattr(QuicConfiguration, "load_cert_chain", load_and_be_overtaken)
    server = Server(
        ServeOptions(program=ProgramOptions(folder=Path())), Reporter(as_json=True), Counter()
    )
    configuration = server._configuration
    assert configuration.certificate.public_key() == configuration.private_key.public_key()
    assert others[0].wait(GUARD_S) == 0
