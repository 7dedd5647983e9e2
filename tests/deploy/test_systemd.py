"""The unit of examples/deploy/systemd under a real systemd, by the commands of its guide."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Iterator

import pytest

from quicbaton.cli.certificate import write_self_signed
from tests.cli.command_line import wait_for
from tests.deploy.booted import UNITS, Booted, booted, what_is_missing
from tests.docs.blocks import ROOT, blocks_of

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        "QUICBATON_TEST_DEEP" not in os.environ,
        reason="it boots a systemd of its own, which takes a minute: make test-deep",
    ),
]

_GUIDE = ROOT / "docs" / "deploy" / "systemd.md"
_CONTENT = os.urandom(100_000)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    missing = what_is_missing()
    if missing:
        pytest.skip(f"systemd cannot be booted here without {missing}")
    folder = tmp_path_factory.mktemp("systemd")
    files = write_self_signed(folder, datetime.datetime.now(datetime.UTC), ("localhost",))
    unit = (UNITS / "quicbaton.service").read_text(encoding="utf-8")
    unit = unit.replace("/etc/quicbaton/", "/opt/stage/").replace("--workers 4", "--workers 2")
    content = {
        "cert.pem": files.certificate.read_bytes(),
        "key.pem": files.key.read_bytes(),
        "file": _CONTENT,
    }
    with booted(folder, {"quicbaton.service": unit}, content) as made:
        made.do("chown", "quicbaton", "/opt/stage/key.pem")
        yield made


def _commands() -> dict[str, list[str]]:
    """The guide's commands, by what is said to systemctl or to quicbaton."""
    (block,) = [one for one in blocks_of(_GUIDE) if one.note.startswith("run by")]
    found = {}
    for command in map(shlex.split, block.commands):
        program = "systemctl" if "systemctl" in command else "quicbaton"
        found[command[len(command) - command[::-1].index(program)]] = command
    return found


def _workers(machine: Booted) -> list[int]:
    """The workers' pids, by the main process's children."""
    pids = machine.do("pgrep", "-f", "quicbaton.cli.worker").split()
    return sorted(map(int, pids))


def _wait_until_active(machine: Booted) -> None:
    def state() -> str:
        return machine.run("systemctl", "is-active", "quicbaton").stdout.strip()

    wait_for(state, lambda told: told == "active")


def _get(machine: Booted) -> bytes:
    url = ("https://localhost:443/file", "--ca", "/opt/stage/cert.pem")
    machine.do("quicbaton", "get", *url, "-o", "/tmp/got")
    return bytes.fromhex(machine.do("od", "-An", "-v", "-tx1", "/tmp/got"))


def test_a_unit_serves_reloads_upgrades_survives_its_supervisor_and_stops(machine: Booted) -> None:
    said = _commands()
    machine.do(*said.pop("start"))
    assert _get(machine) == _CONTENT
    assert "at [::]:443" in machine.do(*said.pop("ps"))
    assert machine.do(*said.pop("workers")).count("serving") == 2
    before = _workers(machine)
    machine.do(*said.pop("reload"))
    assert not set(before) & set(_workers(machine))
    machine.do(*said.pop("scale"))
    assert len(_workers(machine)) == 3
    supervisor = machine.main_pid()
    machine.do(*said.pop("upgrade"))
    assert machine.main_pid() == supervisor
    before = _workers(machine)
    machine.do(*said.pop("kill"))
    wait_for(machine.main_pid, lambda pid: pid not in (0, supervisor))
    _wait_until_active(machine)
    assert set(_workers(machine)) <= set(before)
    assert _get(machine) == _CONTENT
    machine.do(*said.pop("stop"))
    assert machine.run("pgrep", "-f", "quicbaton.cli.worker").returncode == 1
    assert not said


def test_a_reload_that_fails_fails_for_systemctl_too(machine: Booted) -> None:
    machine.do("systemctl", "start", "quicbaton")
    before = _workers(machine)
    machine.do("mv", "/opt/stage/key.pem", "/opt/stage/away.pem")
    assert machine.run("systemctl", "reload", "quicbaton").returncode == 1
    machine.do("mv", "/opt/stage/away.pem", "/opt/stage/key.pem")
    assert _workers(machine) == before
    assert _get(machine) == _CONTENT


def test_after_the_death_of_all_processes_the_sockets_are_those_that_systemd_has_kept(
    machine: Booted,
) -> None:
    machine.do("systemctl", "start", "quicbaton")
    sockets = _sockets(machine)
    supervisor = machine.main_pid()
    machine.do("kill", "-KILL", str(supervisor), *map(str, _workers(machine)))
    wait_for(machine.main_pid, lambda pid: pid not in (0, supervisor))
    _wait_until_active(machine)
    assert _sockets(machine) == sockets
    assert _get(machine) == _CONTENT


@pytest.mark.parametrize("user", ["root", "other"])
def test_other_users_are_told_how_to_see_the_service(machine: Booted, user: str) -> None:
    machine.do("systemctl", "start", "quicbaton")
    hint = "sudo -u quicbaton quicbaton ..."
    assert hint in machine.do("quicbaton", "ps", user=user)
    assert hint in machine.run("quicbaton", "workers", user=user).stderr
    assert hint in machine.run("quicbaton", "ps", "443", user=user).stderr


def _sockets(machine: Booted) -> list[str]:
    """The inodes of the UDP sockets at port 443 (01BB)."""
    lines = machine.do("cat", "/proc/net/udp6").splitlines()
    return sorted(line.split()[9] for line in lines if line.split()[1].endswith(":01BB"))


def test_systemd_finds_nothing_to_say_against_the_unit(machine: Booted) -> None:
    done = machine.run("systemd-analyze", "verify", "/opt/stage/units/quicbaton.service")
    assert done.returncode == 0
    assert "quicbaton.service" not in done.stderr, done.stderr
