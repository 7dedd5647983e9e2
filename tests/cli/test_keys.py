"""`quicbaton keys`: the files that it makes, their modes, and that it destroys nothing."""

import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from quicbaton.cli import keys
from quicbaton.cli.user_state import read_keys
from quicbaton.errors import ConfigurationError
from quicbaton.service.peers.cluster import Cluster, parse_address, read_nodes
from tests.cli.command_line import GUARD_S, Home, wait_for, waits_for_a_lock

NODES = ("--node", "a=10.0.0.1", "--node", "b=[fd00::2]:900")


def init(home: Home) -> Path:
    folder = home.path / "cluster"
    home.json("keys", "init", folder, *NODES)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def secrets(folder: Path) -> list[str]:
    lines = (folder / "cluster.key").read_text().split()
    return [line.rpartition(":")[2] for line in lines]


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def test_init_makes_all_that_a_node_needs(home: Home) -> None:
    folder = init(home)
    for name in ("a", "b"):
        assert Cluster(folder, name).me == name
    nodes = read_nodes(folder)
    assert (nodes["a"].number, str(nodes["a"].peers)) == (1, "10.0.0.1:7843")
    assert (nodes["b"].number, str(nodes["b"].peers)) == (2, "[fd00::2]:900")
    assert len(read_keys(folder / "cluster.key")) == 1


def test_nobody_else_may_read_what_is_secret(home: Home) -> None:
    folder = init(home)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    private = [path for path in contents(folder) if "key" in path.name]
    assert len(private) == 4
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_certificates_are_for_nodes_and_nothing_else(home: Home) -> None:
    folder = init(home)
    authority = certificate(folder, "ca.pem")
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)
    node = certificate(folder, "nodes/a.pem")
    node.verify_directly_issued_by(authority)
    assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["quicbaton:node:a"]
    uses = node.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_init_overwrites_nothing(home: Home) -> None:
    folder = init(home)
    before = contents(folder)
    again = home.run("keys", "init", folder, *NODES)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert contents(folder) == before


def test_init_makes_nothing_where_others_look(home: Home) -> None:
    shared = home.path / "shared"
    shared.mkdir(mode=0o755)
    refused = home.run("keys", "init", shared, *NODES)
    assert "other users can read" in refused.stderr
    assert not list(shared.iterdir())


@pytest.mark.parametrize("node", ["a", "A=h", "a b=h", "=h", "a=", "a=h:0", "a=::1", "a=h:port"])
def test_a_node_that_makes_no_sense_makes_no_cluster(home: Home, node: str) -> None:
    refused = home.run("keys", "init", home.path / "cluster", "--node", node)
    assert refused.returncode == 1
    assert not (home.path / "cluster").exists()


def test_a_name_is_given_once(home: Home) -> None:
    refused = home.run("keys", "init", home.path / "x", "--node", "a=h", "--node", "a=i")
    assert "already" in refused.stderr


def test_nodes_that_come_later_get_numbers_that_nobody_had(home: Home) -> None:
    folder = init(home)
    before = contents(folder)
    home.json("keys", "add-node", folder, "c=10.0.0.3:1000", "d=10.0.0.4")
    nodes = read_nodes(folder)
    assert {name: node.number for name, node in nodes.items()} == {"a": 1, "b": 2, "c": 3, "d": 4}
    certificate(folder, "nodes/c.pem").verify_directly_issued_by(certificate(folder, "ca.pem"))
    after = contents(folder)
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"cluster.toml"}
    assert "already" in home.run("keys", "add-node", folder, "c=10.0.0.5").stderr


def test_nodes_are_added_where_the_authority_is(home: Home) -> None:
    folder = init(home)
    (folder / "ca-key.pem").unlink()
    assert "keys init" in home.run("keys", "add-node", folder, "c=10.0.0.3").stderr
    assert "c" not in read_nodes(folder)


def test_renewing_replaces_a_nodes_certificate_alone(home: Home) -> None:
    folder = init(home)
    before = contents(folder)
    home.json("keys", "renew", folder, "a")
    after = contents(folder)
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"a.pem", "a-key.pem"}
    assert Cluster(folder, "a").me == "a"
    assert home.run("keys", "renew", folder, "x").returncode == 1


def test_a_key_is_replaced_in_three_steps(home: Home) -> None:
    folder = init(home)
    old = home.json("keys", "show", folder)["active"]
    added: dict[str, Any] = home.json("keys", "rotate", folder, "--add")
    assert added["active"] == old
    (new,) = added["retired"]
    used = home.json("keys", "rotate", folder, "--use", new[:6])
    assert (used["active"], used["retired"]) == (new, [old])
    in_use = home.run("keys", "rotate", folder, "--drop", new)
    assert "--use another" in in_use.stderr
    dropped = home.json("keys", "rotate", folder, "--drop", old)
    assert (dropped["active"], dropped["retired"]) == (new, [])
    assert home.run("keys", "rotate", folder, "--drop", old).returncode == 1
    assert stat.S_IMODE((folder / "cluster.key").stat().st_mode) == 0o600


def test_no_command_shows_a_secret(home: Home) -> None:
    folder = home.path / "cluster"
    said = [home.run("keys", "init", folder, *NODES), home.run("keys", "show", folder)]
    said += [
        home.run("keys", "rotate", folder, "--add"),
        home.run("keys", "show", folder, "--json"),
    ]
    text = "".join(done.stdout + done.stderr for done in said)
    assert all(done.returncode == 0 for done in said)
    for secret in secrets(folder):
        assert secret not in text
        assert secret[:16] not in text
    assert "PRIVATE KEY" not in text
    assert "10.0.0.1:7843" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nodes = 3",
        "[nodes]",
        "[nodes.a]\nnumber = 1\n",
        '[nodes.a]\nnumber = -1\npeers = "h"\n',
        '[nodes.a]\nnumber = 1\npeers = "h"\nport = 3\n',
        '[nodes."A/0"]\nnumber = 1\npeers = "h"\n',
        "[nodes.a",
        "\xff",
    ],
)
def test_a_cluster_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError):
        read_nodes(tmp_path)


def test_addresses_are_read_as_they_are_written() -> None:
    for text in ("10.0.0.1:1", "[::1]:7843", "host.example:65535"):
        assert str(parse_address(text)) == text
    assert parse_address("[::1]") == ("::1", 7843)
    assert parse_address("host") == ("host", 7843)
    for port in ("0", "65536", "٣", 5000 * "1"):
        with pytest.raises(ConfigurationError):
            parse_address(f"host:{port}")


def test_two_commands_at_once_change_a_folder_one_after_the_other(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or two nodes would get the same number, and one of them would be forgotten."""
    folder = init(home)
    others = []

    def read_and_be_overtaken(path: Path) -> Any:
        known = read_nodes(path)
        if not others:
            others.append(home.start("quicbaton", "keys", "add-node", folder, "d=10.0.0.4"))
            wait_for(lambda: others[0].poll() is not None or waits_for_a_lock(others[0].pid), bool)
        return known

    monkeypatch.setattr(keys, "read_nodes", read_and_be_overtaken)
    home.json("keys", "add-node", folder, "c=10.0.0.3")
    assert others[0].wait(GUARD_S) == 0
    nodes = read_nodes(folder)
    assert {name: node.number for name, node in nodes.items()} == {"a": 1, "b": 2, "c": 3, "d": 4}
