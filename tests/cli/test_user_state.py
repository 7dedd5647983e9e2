"""Keys, certificate and folders that are kept for the user."""

import datetime
import socket
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509

from quicbaton.cli import user_state
from quicbaton.cli.certificate import LOCAL_NAMES, CertificateFiles, replace_self_signed
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


def names_in(files: CertificateFiles) -> set[str]:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in extension.value}


def contents(files: CertificateFiles) -> tuple[bytes, bytes]:
    return files.certificate.read_bytes(), files.key.read_bytes()


def test_the_certificate_is_made_once() -> None:
    files = user_state.local_certificate("::")
    first = contents(files)
    assert user_state.local_certificate("127.0.0.1") == files
    assert contents(files) == first
    assert mode(files.key) == 0o600


def test_a_server_with_another_name_has_files_of_its_own() -> None:
    usual = user_state.local_certificate("::")
    before = contents(usual)
    hosts = ["192.0.2.7", "2001:DB8::1", "fe80::1%eth0", "host.test"]
    others = [user_state.local_certificate(host) for host in hosts]
    assert len({files.certificate for files in [usual, *others]}) == 1 + len(hosts)
    wanted = ["192.0.2.7", "2001:db8::1", "fe80::1", "host.test"]
    for files, name in zip(others, wanted, strict=True):
        assert name in names_in(files)
        assert mode(files.key) == 0o600
    made = [contents(files) for files in others]
    assert [user_state.local_certificate(host) for host in hosts] == others
    assert [contents(files) for files in others] == made
    assert user_state.local_certificate("") == usual
    assert contents(usual) == before


def test_a_machine_of_another_name_has_files_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that share a home, or one that was renamed while a server runs."""
    monkeypatch.setattr("socket.gethostname", lambda: "one")
    first = user_state.local_certificate("")
    before = contents(first)
    monkeypatch.setattr("socket.gethostname", lambda: "two")
    second = user_state.local_certificate("")
    assert "two" in names_in(second)
    assert second.certificate != first.certificate
    assert contents(first) == before


@pytest.mark.parametrize("host", ["", "192.0.2.7"])
def test_a_certificate_that_expires_soon_is_replaced_in_one_step(host: str) -> None:
    files = user_state.local_certificate(host)
    now = datetime.datetime.now(datetime.UTC)
    names = [*LOCAL_NAMES, *sorted(names_in(files) - {*LOCAL_NAMES})]
    replace_self_signed(files, now - datetime.timedelta(days=12), names)
    old = contents(files)
    with files.certificate.open("rb") as certificate, files.key.open("rb") as key:
        assert user_state.local_certificate(host) == files
        # A reader that came before still has both as they were.
        assert (certificate.read(), key.read()) == old
    assert contents(files) != old
    assert mode(files.key) == 0o600
    assert {path.name for path in files.key.parent.iterdir()} == {
        files.key.name,
        files.certificate.name,
    }


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
    """While another server that starts renews them."""
    others: list[subprocess.Popen[bytes]] = []
    load = QuicConfiguration.load_cert_chain

    def load_and_be_overtaken(self: QuicConfiguration, certificate: Path, key: Path) -> None:
        load(self, certificate, key)
        # It expires soon by then.
        code = (
            "import datetime; from quicbaton.cli import user_state;"
            "user_state.RENEW_BEFORE = datetime.timedelta(days=99);"
            "user_state.local_certificate('')"
        )
        other = subprocess.Popen([sys.executable, "-c", code])
        others.append(other)
        wait_for(lambda: other.poll() is not None or waits_for_a_lock(other.pid), bool)
        # The key's turn.
        loaded = self.certificate
        load(self, certificate, key)
        self.certificate = loaded

    monkeypatch.setattr(QuicConfiguration, "load_cert_chain", load_and_be_overtaken)
    server = Server(
        ServeOptions(program=ProgramOptions(folder=Path())), Reporter(as_json=True), Counter()
    )
    shown = server._certificates.for_quic
    for certificate, key in (
        (shown.all[0].leaf, shown.all[0].key),
        (server._configuration.certificate, server._configuration.private_key),
    ):
        assert certificate.public_key() == key.public_key()
    assert [other.wait(GUARD_S) for other in others] == [0, 0]


def test_control_sockets_are_where_systemd_says_unless_the_user_has_a_folder_for_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{home / 'service'}:{home / 'further'}")
    assert user_state.runtime_folder() == home / "run" / "quicbaton"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert user_state.runtime_folder() == home / "service"


def test_the_sockets_of_the_machines_service_are_found_by_its_user_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "machine"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(user_state, "_MACHINE_FOLDER", folder)
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(folder / "443.sock"))
        assert user_state.control_sockets(443) == [folder / "443.sock"]
        assert user_state.all_control_sockets() == [folder / "443.sock"]
        assert user_state.closed_folder_hint() == ""
        monkeypatch.setattr("os.getuid", lambda: 12345)
        hint = user_state.closed_folder_hint()
    assert "quicbaton ..." in hint
