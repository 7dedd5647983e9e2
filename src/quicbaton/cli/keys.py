"""`quicbaton keys`: a cluster's folder, with its authority, nodes and cluster keys."""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509

from quicbaton.cli.authority import Authority, write_private
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import (
    KeysAddNodeOptions,
    KeysInitOptions,
    KeysOptions,
    KeysRenewOptions,
    KeysRotateOptions,
    KeysShowOptions,
)
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.user_state import locked, read_keys
from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.service.peers.cluster import (
    CA_FILE,
    CLUSTER_FILE,
    KEYS_FILE,
    NODES_FOLDER,
    NodeEntry,
    parse_address,
    read_nodes,
)
from quicbaton.service.peers.names import is_node_name

_O = TypeVar("_O", bound=KeysOptions)

#: The first node's number. 0 is the number of a server without a cluster.
_FIRST_NUMBER: Final = 1
_HEADING: Final = """\
# The nodes of a cluster, the same on every host. `number` is in connection IDs: never give one to
# another node. `peers` is where other nodes reach it; `listen`, if it differs, where it listens.
"""


def add_parser(commands: Any) -> None:
    keys = commands.add_parser(
        "keys",
        help="make and maintain a cluster's keys and certificates",
        description="A cluster's folder: its nodes, the certificates that prove their names, and "
        "the keys that all of them share.",
    )
    actions = keys.add_subparsers(metavar="ACTION", required=True)

    add_command(actions, "init", KeysInitOptions, init, "make a cluster's folder")
    add_command(actions, "add-node", KeysAddNodeOptions, _alone(_add_nodes), "add nodes")
    add_command(actions, "renew", KeysRenewOptions, _alone(_renew), "new certificates")
    add_command(
        actions,
        "rotate",
        KeysRotateOptions,
        _alone(_rotate),
        "replace the cluster key, step by step",
    )
    add_command(actions, "show", KeysShowOptions, _show, "show the nodes, certificates and keys")


def _alone(run: Callable[[_O, Reporter], int]) -> Callable[[_O, Reporter], int]:
    """Run one command at a time in a folder: each changes files that it has read there."""

    def run_alone(options: _O, reporter: Reporter) -> int:
        # Without a folder the command reports the error.
        with locked(options.folder) if options.folder.is_dir() else contextlib.nullcontext():
            return run(options, reporter)

    return run_alone


def init(options: KeysInitOptions, reporter: Reporter) -> int:
    folder = options.folder
    nodes = _parse(options.nodes, {})
    for name in (CLUSTER_FILE, KEYS_FILE, CA_FILE):
        if (folder / name).exists():
            raise ConfigurationError(
                f"{folder / name} exists already: `quicbaton keys add-node` adds to a cluster; "
                "for another cluster name a new folder",
                code=Reason.FILE_EXISTS,
            )
    if folder.exists() and stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise ConfigurationError(
            f"other users can read {folder}, which is to hold keys: name a new folder",
            code=Reason.NOT_PRIVATE,
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = _now()
    authority = Authority.create(folder, now)
    for name in nodes:
        authority.issue(folder, name, now)
    write_private(folder / KEYS_FILE, KeyRing(ClusterKey.generate(os.urandom)).encode().encode())
    _write_nodes(folder, nodes)
    lines = [f"made a cluster of {len(nodes)} in {folder}. Copy to each host:"]
    lines += [
        f"  {node.peers.host:15}  {CA_FILE} {CLUSTER_FILE} {KEYS_FILE} "
        f"{NODES_FOLDER}/{node.name}.pem {NODES_FOLDER}/{node.name}-key.pem"
        for node in nodes.values()
    ]
    lines.append("Nothing else: the CA's key stays here. Then, on each:")
    lines.append("  quicbaton serve FOLDER --cluster DIR --node-name NAME")
    reporter.event("made", "\n".join(lines), folder=str(folder), nodes=_as_data(nodes))
    return 0


def _add_nodes(options: KeysAddNodeOptions, reporter: Reporter) -> int:
    folder = options.folder
    known = read_nodes(folder)
    added = _parse(options.nodes, known)
    authority = Authority.load(folder)
    for name in added:
        authority.issue(folder, name, _now())
    _write_nodes(folder, known | added)
    text = (
        f"added {', '.join(added)}. Copy {CLUSTER_FILE} to every host (servers notice), and to the "
        f"new ones {CA_FILE}, {KEYS_FILE} and their own certificate and key too"
    )
    reporter.event("added", text, folder=str(folder), nodes=_as_data(added))
    return 0


def _renew(options: KeysRenewOptions, reporter: Reporter) -> int:
    folder = options.folder
    known = read_nodes(folder)
    for name in options.nodes:
        if name not in known:
            raise ConfigurationError(f"the cluster has no node {name!r}", code=Reason.UNKNOWN_NODE)
    authority = Authority.load(folder)
    for name in options.nodes:
        authority.issue(folder, name, _now())
    text = f"renewed {', '.join(options.nodes)}: copy each certificate and key to its host"
    reporter.event("renewed", text, folder=str(folder), nodes=options.nodes)
    return 0


def _rotate(options: KeysRotateOptions, reporter: Reporter) -> int:
    path = options.folder / KEYS_FILE
    ring = read_keys(path)
    if options.add:
        key = ClusterKey.generate(os.urandom, beside=ring)
        ring = KeyRing(ring.active, [key, *ring.retired])
        text = f"{key.key_id.hex()} opens from now on; when all hosts have it: --use it"
    elif options.use is not None:
        key = _find_key(ring, options.use)
        ring = ring.rotate(key)
        text = f"{key.key_id.hex()} seals from now on; a day after all hosts do so: --drop the old"
    else:
        assert options.drop is not None
        key = _find_key(ring, options.drop)
        if key == ring.active:
            raise ConfigurationError(
                "that key seals: --use another one first, on every host", code=Reason.KEY_IN_USE
            )
        ring = KeyRing(ring.active, [other for other in ring.retired if other != key])
        text = f"{key.key_id.hex()} is forgotten"
    write_private(path, ring.encode().encode())
    reporter.event(
        "rotated", f"{text}. Copy {path} to every host", **_ring_as_data(ring), file=str(path)
    )
    return 0


def _show(options: KeysShowOptions, reporter: Reporter) -> int:
    folder = options.folder
    nodes = read_nodes(folder)
    ring = read_keys(folder / KEYS_FILE)
    expiries = {
        path.stem: _expiry(path)
        for path in (folder / CA_FILE, *(folder / NODES_FOLDER / f"{name}.pem" for name in nodes))
        if path.exists()
    }
    if reporter.as_json:
        reporter.value({"nodes": _as_data(nodes), "expires": expiries, **_ring_as_data(ring)})
        return 0
    for node in nodes.values():
        expires = expiries.get(node.name, "not here")
        print(f"node {node.name}  number {node.number}  {node.peers}  certificate until {expires}")
    print(f"certificate authority until {expiries.get('ca', 'not here')}")
    print(f"key {ring.active.key_id.hex()}  seals and opens")
    for key in ring.retired:
        print(f"key {key.key_id.hex()}  opens")
    return 0


# --- helpers ----------------------------------------------------------------------------------


def _parse(texts: Sequence[str], known: dict[str, NodeEntry]) -> dict[str, NodeEntry]:
    """Nodes from the options' texts, with numbers that no node has had."""
    nodes: dict[str, NodeEntry] = {}
    number = max((node.number for node in known.values()), default=_FIRST_NUMBER - 1)
    for text in texts:
        name, equals, where = text.partition("=")
        if not equals or not is_node_name(name):
            raise ConfigurationError(
                f"{text!r}: expected NAME=HOST[:PORT], the name in small letters, digits and "
                "inner hyphens",
                code=Reason.NODE,
            )
        if name in known or name in nodes:
            raise ConfigurationError(f"there is a node {name!r} already", code=Reason.NODE)
        number += 1
        address = parse_address(where)
        nodes[name] = NodeEntry(name, number, address, address)
    return nodes


def _write_nodes(folder: Path, nodes: dict[str, NodeEntry]) -> None:
    text = _HEADING
    for node in nodes.values():
        text += f'\n[nodes.{node.name}]\nnumber = {node.number}\npeers = "{node.peers}"\n'
        if node.listen != node.peers:
            text += f'listen = "{node.listen}"\n'
    write_private(folder / CLUSTER_FILE, text.encode())


def _find_key(ring: KeyRing, text: str) -> ClusterKey:
    found = [key for key in ring if key.key_id.hex().startswith(text.lower())]
    if len(found) != 1:
        held = ", ".join(key.key_id.hex() for key in ring)
        raise ConfigurationError(
            f"{text!r} means {len(found)} keys of the ring, which has {held}",
            code=Reason.UNKNOWN_KEY,
        )
    return found[0]


def _ring_as_data(ring: KeyRing) -> dict[str, Any]:
    return {
        "active": ring.active.key_id.hex(),
        "retired": [key.key_id.hex() for key in ring.retired],
    }


def _as_data(nodes: dict[str, NodeEntry]) -> dict[str, Any]:
    return {node.name: {"number": node.number, "peers": str(node.peers)} for node in nodes.values()}


def _expiry(path: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        return "broken"
    return certificate.not_valid_after_utc.date().isoformat()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
