"""The present code and what was released before it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import quicbaton
from quicbaton.baton.errors import BatonVersionError
from quicbaton.baton.header import peek
from quicbaton.baton.versions import readable_versions
from tests.cli.command_line import Server, check_whole
from tests.cli.two_codes import TwoCodes
from tests.releases.sample import FOLDER, SIZE, Sample, go_on, read_all
from tests.supervisor.scraping import scrape

SAMPLES = read_all()
RELEASES = sorted(
    (folder for folder in FOLDER.iterdir() if (folder / "download.sample").exists()),
    key=lambda folder: [int(part) for part in folder.name.split(".")],
)
_FILE_BYTES = 8_000_000
_RATE = 400_000


class TwoReleases(TwoCodes):
    """Servers of the present code; the other is that of the last release."""

    def __init__(self, path: Path) -> None:
        self._installed = path / "installed"
        super().__init__(path, self._installed)
        (wheel,) = RELEASES[-1].glob("*.whl")
        self._released = path / "released"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self._released)
        self.install(released=True)
        where = "import quicbaton; print(quicbaton.__file__)"
        imported = subprocess.run(
            [sys.executable, "-c", where],
            env=self.environment_of_other,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        assert Path(imported.strip()).resolve().is_relative_to(self._released)

    def install(self, *, released: bool) -> None:
        """Have servers of the last release, and what they start, find this code from now on."""
        self._installed.unlink(missing_ok=True)
        present = Path(quicbaton.__file__).parent.parent
        self._installed.symlink_to(self._released if released else present)


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[TwoReleases]:
    made = TwoReleases(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.release} {sample.name}")
def test_both_ends_of_a_released_connection_go_on(sample: Sample) -> None:
    for baton in (sample.client, sample.server):
        if peek(baton).version not in readable_versions():
            with pytest.raises(BatonVersionError, match="neighbouring releases only"):
                go_on(sample)
            return
    exchanges = go_on(sample)
    unfinished = [stream for stream, count in sample.received.items() if count < SIZE]
    more = [exchanges.ask(b"GET"), exchanges.ask(b"POST")]
    exchanges.run(5)
    assert set(exchanges.received.values()) == {SIZE}
    assert exchanges.answered >= {*unfinished, *more}


def test_every_release_of_the_changelog_is_kept(pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "CHANGELOG.md").read_text(encoding="utf-8")
    named = re.findall(r"^## (\d+\.\d+\.\d+)\b", text, re.MULTILINE)
    assert sorted(named) == sorted(folder.name for folder in RELEASES)
    for folder in RELEASES:
        (wheel,) = folder.glob("*.whl")
        assert wheel.name.startswith(f"quicbaton-{folder.name}-")
        kept = {file.stem for file in folder.glob("*.sample")}
        assert kept == {sample.name for sample in SAMPLES if sample.release == folder.name}


@pytest.mark.process
def test_a_download_goes_to_the_next_release_and_back(releases: TwoReleases) -> None:
    present, released = releases.serve, releases.serve_other
    releases.take_over_in_turn(released, [present, released, present])


@pytest.mark.process
def test_a_connection_is_handed_between_a_release_and_the_present_code(
    releases: TwoReleases,
) -> None:
    releases.hand_to_and_fro(releases.serve, releases.serve_other)


@pytest.mark.process
def test_a_handoff_to_a_release_has_a_timeline_and_one_by_it_has_none(
    releases: TwoReleases,
) -> None:
    content = releases.write("file.bin", _FILE_BYTES)
    present = releases.serve()
    client = releases.download(present, "file.bin", _RATE)
    client.wait_for_bytes(1)
    released = releases.serve_other("--join", present.control)
    name = releases.connection(present)["connection"]
    told = releases.json(
        "handoff", present.control, name, "--to", released.control, "--settle", "30"
    )
    assert {"offer", "commit", "first_datagram", "cutover"} <= set(told["timeline"]["at_us"])
    client.wait_for_bytes(1)
    told = releases.json("handoff", released.control, name, "--to", present.control)
    assert told["timeline"] is None
    check_whole(client, content)


@pytest.mark.process
def test_a_released_service_is_reloaded_into_the_present_code_and_back(
    releases: TwoReleases,
) -> None:
    """As when a package is upgraded under a service: the supervisor stays what it was."""
    content = releases.write("file.bin", _FILE_BYTES)
    service = releases.serve_other("--workers", "2")
    clients = [releases.download(service, "file.bin", _RATE) for _ in range(3)]
    for client in clients:
        client.wait_for_bytes(1)
    for released in (False, False, True):
        releases.install(released=released)
        done = releases.run("reload", str(service.port), "--json")
        assert done.returncode == 0, done.stderr
        assert releases.json("workers", str(service.port))["lingering"] == []
    for client in clients:
        check_whole(client, content)
    assert service.stop() == 0


@pytest.mark.process
def test_what_a_released_worker_has_counted_goes_on_under_a_new_supervisor(
    releases: TwoReleases,
) -> None:
    releases.write("file.bin", 1000)
    alone = ("--workers", "1", "--metrics", "0", "--host", "127.0.0.1")
    released = releases.serve_other(*alone, "--port", "0")
    url = f"https://localhost:{released.port}/file.bin"

    def get() -> None:
        releases.json("get", url, "--ca", releases.ca, "-o", releases.path / "copy")

    for _ in range(3):
        get()
    accepted = 'quicbaton_accepted_total{node="0",worker="0"}'
    metrics = released.wait_for("metrics")["url"]
    assert scrape(metrics)[accepted] == 3
    released.process.kill()
    released.process.wait()
    present = releases.serve(*alone, "--port", str(released.port))
    metrics = present.wait_for("metrics")["url"]
    assert scrape(metrics)[accepted] == 3
    get()
    assert scrape(metrics)[accepted] == 4
    assert releases.run("reload", str(present.port)).returncode == 0
    get()
    assert scrape(metrics)[accepted] == 5
    releases.json("stop", str(present.port))


@pytest.mark.process
def test_a_released_supervisor_reads_the_figures_of_a_new_worker(releases: TwoReleases) -> None:
    """Its code was replaced under it, as an upgrade does, and it was told to reload."""
    releases.write("file.bin", 1000)
    options = ("--workers", "1", "--metrics", "0", "--host", "127.0.0.1", "--port", "0")
    server = releases.serve_other(*options)
    before = _pids(releases, server)
    releases.install(released=False)
    assert releases.run("reload", str(server.port)).returncode == 0
    assert _pids(releases, server) != before
    url = f"https://localhost:{server.port}/file.bin"
    releases.json("get", url, "--ca", releases.ca, "-o", releases.path / "copy")
    metrics = server.wait_for("metrics")["url"]
    assert scrape(metrics)['quicbaton_accepted_total{node="0",worker="0"}'] == 1
    # It cannot say what its ended workers have counted.
    assert releases.json("workers", str(server.port))["since_start"] is None
    look = releases.json("top", str(server.port), "--count", "1", "--interval", "0.1")
    assert (len(look["workers"]), look["since_start"]) == (1, None)
    releases.json("stop", str(server.port))


def _pids(releases: TwoReleases, server: Server) -> list[int]:
    listed = releases.json("workers", str(server.port))["workers"]
    return [worker["pid"] for worker in listed]
