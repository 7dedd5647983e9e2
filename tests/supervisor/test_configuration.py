"""A service's file: a reload reads it again."""

from __future__ import annotations

import os
import signal

import pytest

from tests.cli.command_line import GUARD_S, check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, RATE, Service, ServiceHome, last_event

pytestmark = pytest.mark.process

_FILE = 'folder = "files"\nhost = "127.0.0.1"\nport = 0\nworkers = 2\njson = true\n'


def is_served(home: ServiceHome, service: Service, name: str) -> bool:
    url = f"https://localhost:{service.port}/{name}"
    return home.run("get", url, "--ca", home.ca, "-o", "a").returncode == 0


def test_a_reload_reads_the_file_again(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    home.write(".hidden", 10)
    file = home.path / "quicbaton.toml"
    file.write_text(_FILE)
    service = home.service_of_file()
    downloads = service.download_everywhere("file.bin")
    assert (
        home.run(
            "get", f"https://localhost:{service.port}/.hidden", "--ca", home.ca, "-o", "a"
        ).returncode
        != 0
    )
    file.write_text(_FILE + "dotfiles = true\n")
    assert home.run("reload", "--json").returncode == 0
    assert (
        home.run(
            "get", f"https://localhost:{service.port}/.hidden", "--ca", home.ca, "-o", "a"
        ).returncode
        == 0
    )
    for download in downloads:
        check_whole(download, content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dotfils = true", "there is no option 'dotfils': dotfiles?"),
        ('metrics = "9100"', "no reload can change it: metrics"),
        ("cert = 'no.pem'\nkey = 'no.key'", "no.pem"),
    ],
)
def test_a_file_that_cannot_be_replaces_nobody(home: ServiceHome, line: str, message: str) -> None:
    home.write("file.bin", 10)
    file = home.path / "quicbaton.toml"
    file.write_text(_FILE)
    service = home.service_of_file()
    before = service.pids()
    file.write_text(_FILE + line)
    done = home.run("reload", "--json")
    assert done.returncode == 1
    assert message in done.stderr
    assert service.pids() == before
    # A worker that dies now comes back as it was.
    os.kill(before[0], signal.SIGKILL)
    wait_for(service.pids, lambda pids: pids[0] not in (0, before[0]))
    assert (
        home.run(
            "get", f"https://localhost:{service.port}/file.bin", "--ca", home.ca, "-o", "a"
        ).returncode
        == 0
    )
    file.write_text(_FILE)
    assert last_event(home.run("reload", "--json").stdout)["event"] == "reloaded"


def test_a_reload_brings_as_many_workers_as_the_file_says(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    file = home.path / "quicbaton.toml"
    file.write_text(_FILE)
    service = home.service_of_file()
    downloads = service.download_everywhere("file.bin")
    for workers in (3, 1):
        file.write_text(_FILE.replace("workers = 2", f"workers = {workers}"))
        assert home.run("reload", "--json").returncode == 0
        assert len(service.pids()) == workers
    # The number that `scale` has given holds until the file's changes.
    assert home.run("scale", "2").returncode == 0
    assert home.run("reload").returncode == 0
    assert len(service.pids()) == 2
    for download in downloads:
        check_whole(download, content)


def test_a_signal_to_stop_gives_the_grace_of_the_last_reload(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    file = home.path / "quicbaton.toml"
    file.write_text(_FILE + "grace = 0\n")
    service = home.service_of_file()
    file.write_text(_FILE + "grace = 600\n")
    assert home.run("reload", "--json").returncode == 0
    download = home.download(service, "file.bin", RATE)
    download.wait_for_bytes(1)
    service.process.terminate()
    assert service.wait_for("waiting")["seconds_left"] > 500
    assert not download.outcome()["error"]
    assert service.process.wait(GUARD_S) == 0
