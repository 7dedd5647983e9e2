"""A cluster as its folder describes it: the nodes, and what proves a node's identity.

    ca.pem             the authority that all nodes trust to name nodes
    cluster.toml       the nodes: number, and the address at which their peers reach them
    nodes/a.pem        a's certificate, its name in a URI: quicbaton:node:a
    nodes/a-key.pem    its private key, on that host only
    cluster.key        the keys with which batons and the rest are sealed

`quicbaton keys init` makes one. Files that change are read again at the next connection: a node
that was added is known, and one that was removed is refused, without a restart. While a folder is
inconsistent, no node is let in.
"""

from __future__ import annotations

import os
import ssl
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from quicbaton.errors import ConfigurationError, PeerError
from quicbaton.limits import MAX_NODES
from quicbaton.reasons import Reason
from quicbaton.service.peers.names import is_node_name

CA_FILE: Final = "ca.pem"
CLUSTER_FILE: Final = "cluster.toml"
KEYS_FILE: Final = "cluster.key"
NODES_FOLDER: Final = "nodes"
#: The certificate's URI is this and the node's name: a scheme of our own, so that no certificate
#: that the same authority made for another purpose opens a door here.
NODE_URI_PREFIX: Final = "quicbaton:node:"
DEFAULT_PORT: Final = 7843


class Address(NamedTuple):
    """The host and port of a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NodeEntry(msgspec.Struct, frozen=True):
    """One node of a cluster."""

    name: str
    number: int  # in connection IDs
    peers: Address  # where others reach it
    listen: Address  # where it listens for them


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=0)]
    peers: str
    listen: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    nodes: Annotated[dict[str, _Entry], msgspec.Meta(min_length=1, max_length=MAX_NODES)]


class Cluster:
    """The folder, as the node `me` sees it. Raises ConfigurationError while it is inconsistent.

    `me` is for processes that have a certificate of their own to show.
    """

    def __init__(self, folder: Path, me: str) -> None:
        self.folder = folder
        self.me = me
        self._stamp: object = None
        self._nodes: dict[str, NodeEntry] = {}
        self._names: dict[int, str] = {}
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self.number = self.own_entry().number
        self.context(server_side=False)

    def __repr__(self) -> str:
        return f"<Cluster {self.folder} as {self.me}>"

    @property
    def nodes(self) -> dict[str, NodeEntry]:
        """The nodes by name, as the file has them now."""
        self._refresh()
        return self._nodes

    @property
    def last_nodes(self) -> dict[str, NodeEntry]:
        """The nodes as they were read last: for work that is done at every datagram."""
        return self._nodes

    def last_name_of(self, number: int) -> str | None:
        """The name of the node with this number, as it was read last."""
        return self._names.get(number)

    def find(self, node: str) -> NodeEntry:
        """The node with this name."""
        entry = self.nodes.get(node)
        if entry is None:
            known = ", ".join(sorted(self._nodes))
            raise ConfigurationError(
                f"{self.folder / CLUSTER_FILE} has no node {node!r}; it has {known}",
                code=Reason.UNKNOWN_NODE,
            )
        return entry

    def own_entry(self) -> NodeEntry:
        """The entry of this node."""
        return self.find(self.me)

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """TLS for one side of a connection: TLS 1.3 only, and a peer without a certificate is
        refused."""
        self._refresh()
        context = self._contexts.get(server_side)
        if context is None:
            context = self._contexts[server_side] = self._make_context(server_side)
        return context

    def check_peer(self, tls: ssl.SSLObject) -> str:
        """The name of the node at the other end of a completed handshake. PeerError unless it is
        one."""
        certificate = tls.getpeercert() or {}
        names = [
            str(value).removeprefix(NODE_URI_PREFIX)
            for kind, value in _alternative_names(certificate)
            if kind == "URI" and value.startswith(NODE_URI_PREFIX)
        ]
        if len(names) != 1:
            raise PeerError(
                f"its certificate names {len(names)} nodes ({NODE_URI_PREFIX}NAME), not one",
                code=Reason.NOT_A_NODE,
            )
        if names[0] not in self.nodes:
            raise PeerError(
                f"the node {names[0]!r} is not, or no longer, in {CLUSTER_FILE}",
                code=Reason.UNKNOWN_NODE,
            )
        return names[0]

    # --- helpers --------------------------------------------------------------------------------

    def _refresh(self) -> None:
        stamp = [_stamp(path) for path in (self.folder / CLUSTER_FILE, *self._trust_files())]
        if stamp != self._stamp:
            self._nodes = read_nodes(self.folder)
            self._names = {entry.number: name for name, entry in self._nodes.items()}
            self._contexts.clear()
            self._stamp = stamp

    def _trust_files(self) -> tuple[Path, Path, Path]:
        nodes = self.folder / NODES_FOLDER
        return self.folder / CA_FILE, nodes / f"{self.me}.pem", nodes / f"{self.me}-key.pem"

    def _make_context(self, server_side: bool) -> ssl.SSLContext:
        authority, certificate, key = self._trust_files()
        context = ssl.SSLContext(
            ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # `check_peer` names nodes: an address may belong to another host tomorrow.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        # A session must not outlive the certificate with which it began.
        context.options |= ssl.OP_NO_TICKET
        if server_side:
            context.num_tickets = 0
        try:
            if stat.S_IMODE(key.stat().st_mode) & 0o077:
                raise ConfigurationError(
                    f"{key} is a node's private key and others may read it: chmod 600 {key}",
                    code=Reason.NOT_PRIVATE,
                )
            context.load_verify_locations(authority)
            context.load_cert_chain(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(
                f"cannot use {certificate} with its key and {authority}: "
                f"{error.strerror or error}; a node's folder needs all three",
                code=Reason.CERTIFICATES,
            ) from error
        return context


def read_nodes(folder: Path) -> dict[str, NodeEntry]:
    """The nodes by name, from cluster.toml."""
    path = folder / CLUSTER_FILE
    try:
        with path.open("rb") as file:
            parsed = msgspec.convert(tomllib.load(file), _File)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror or error}; `quicbaton keys init` makes a cluster",
            code=Reason.CLUSTER_FILE,
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}", code=Reason.CLUSTER_FILE) from error
    nodes = {}
    numbers: dict[int, str] = {}
    for name, entry in parsed.nodes.items():
        if not is_node_name(name):
            raise ConfigurationError(
                f"{path}: {name!r} cannot name a node: small letters, digits, inner hyphens",
                code=Reason.CLUSTER_FILE,
            )
        other = numbers.setdefault(entry.number, name)
        if other != name:
            raise ConfigurationError(
                f"{path}: {other} and {name} have the same number: give each its own",
                code=Reason.CLUSTER_FILE,
            )
        peers = parse_address(entry.peers)
        listen = parse_address(entry.listen) if entry.listen else peers
        nodes[name] = NodeEntry(name, entry.number, peers, listen)
    return nodes


def parse_address(text: str) -> Address:
    """Parse `HOST`, `HOST:PORT` or `[IPv6]:PORT`. The default port is 7843."""
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, digits = text, str(DEFAULT_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigurationError(
            f"{text!r}: write an IPv6 address in brackets, as in [::1]:{DEFAULT_PORT}",
            code=Reason.ADDRESS,
        )
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 5
    if not host or not is_number or not 0 < int(digits) < 1 << 16:
        raise ConfigurationError(
            f"{text!r} is not an address: expected HOST:PORT, as in 10.0.0.1:{DEFAULT_PORT}",
            code=Reason.ADDRESS,
        )
    return Address(host, int(digits))


def node_keys(folder: Path) -> list[str]:
    """The nodes whose private keys are in the folder: on a node's host only its own."""
    ending = "-key.pem"
    return sorted(
        path.name.removesuffix(ending) for path in (folder / NODES_FOLDER).glob(f"*{ending}")
    )


def _alternative_names(certificate: object) -> list[tuple[str, str]]:
    found = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
    return [(str(kind), str(value)) for kind, value in found]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
