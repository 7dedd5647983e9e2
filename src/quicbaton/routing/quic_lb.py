"""Connection IDs that say which node and worker issued them: QUIC-LB's plaintext form.

draft-ietf-quic-load-balancers, "CID format":

    first octet (3 bits config rotation, 5 bits length or random)
    | server ID = node (`node_bytes`) | worker (1) | nonce (`nonce_bytes`)

The worker is the last octet of the draft's server ID, as the draft's "load balancer chains" and
"server process demultiplexing" have it: a balancer that knows only nodes reads the shorter prefix
and takes the worker for nonce. It stands at a fixed offset, where a classic BPF program finds it
(`steering`).

The nonce. The draft wants at least 4 octets, with no observable relationship between plaintext
nonces, which rules a counter out, and never the same nonce twice. A random nonce of 4 octets
repeats after about 2^16 IDs: a busy worker reaches that in minutes, and two clients with one ID
hold each other's reset token (RFC 9000 §10.3.2). With 8 octets a repeat is expected after 2^32
IDs of one worker, and against 100,000 live IDs a new one collides with a chance of 5e-15. Eight
random octets also are the "64 bits of entropy" with which an ID validates its sender's address
(RFC 9000 §8.1). Hence the default: 1 + 2 + 1 + 8 = 12 octets. Only packets towards the server
carry them, so the 4 octets more than an 8-octet ID cost downloads nothing but 0.3 % of the
uplink. The short form, `nonce_bytes=4`, is for small services; give `IdFactory` the IDs in use.

The five low bits of the first octet are random unless `describes_length` is set.

Where we deviate: the draft says that plaintext IDs SHOULD NOT be issued in NEW_CONNECTION_ID
frames, because an observer can link them to the server. Cutover needs those frames (the draft's
own "moving connections between servers"). Every ID of ours, the first included, shows node and
worker to an observer; a client that migrates to hide is linked to this server, among all its
other clients.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final, NamedTuple

from msgspec import Struct

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token

#: 0b111 is reserved for IDs that no balancer may route (the draft's "configuration failover").
MAX_CONFIG_ID: Final = 6
MIN_ID_BYTES: Final = 8
MAX_ID_BYTES: Final = 12
MIN_NONCE_BYTES: Final = 4
WORKER_BYTES: Final = 1
MAX_WORKER: Final = 255

_ISSUE_TRIES: Final = 16


class Place(NamedTuple):
    """Where a connection lives: a node of the cluster and a worker on it."""

    node: int
    worker: int


class IdLayout(Struct, frozen=True):
    """The form of all connection IDs that a cluster issues."""

    config_id: int = 0
    node_bytes: int = 2
    nonce_bytes: int = 8
    describes_length: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.config_id <= MAX_CONFIG_ID:
            raise ConfigurationError(
                f"config_id is 0 to {MAX_CONFIG_ID} (7 is reserved), got {self.config_id}",
                code="id_layout",
            )
        if self.node_bytes < 1 or self.nonce_bytes < MIN_NONCE_BYTES:
            raise ConfigurationError(
                f"node_bytes is 1 at least and nonce_bytes {MIN_NONCE_BYTES},"
                f" got {self.node_bytes} and {self.nonce_bytes}",
                code="id_layout",
            )
        if not MIN_ID_BYTES <= self.length <= MAX_ID_BYTES:
            raise ConfigurationError(
                f"IDs have {MIN_ID_BYTES} to {MAX_ID_BYTES} bytes; {self.node_bytes} for the node"
                f" and {self.nonce_bytes} for the nonce make {self.length}",
                code="id_layout",
            )

    @property
    def length(self) -> int:
        """Bytes of every ID."""
        return 1 + self.node_bytes + WORKER_BYTES + self.nonce_bytes

    @property
    def worker_offset(self) -> int:
        """Index of the worker's byte in an ID."""
        return 1 + self.node_bytes

    @property
    def max_node(self) -> int:
        """The highest node number that fits."""
        return (1 << (8 * self.node_bytes)) - 1

    def encode(self, place: Place, random: bytes) -> bytes:
        """Return the ID of `place` made of `random`, which has 1 + `nonce_bytes` bytes."""
        if len(random) != 1 + self.nonce_bytes:
            raise InternalError(
                f"an ID takes {1 + self.nonce_bytes} random bytes, got {len(random)}"
            )
        low = self.length - 1 if self.describes_length else random[0] & 0x1F
        server_id = place.node.to_bytes(self.node_bytes, "big") + bytes((place.worker,))
        return bytes((self.config_id << 5 | low,)) + server_id + random[1:]

    def decode(self, cid: bytes) -> Place | None:
        """Return who issued `cid`, or None when it is not of this layout.

        A client's random ID of the right length passes for ours with a chance of 1 in 8, and with
        any given place with 1 in 8 * 256 * 256^node_bytes: this is a hint, never a proof.
        """
        if len(cid) != self.length or cid[0] >> 5 != self.config_id:
            return None
        if self.describes_length and cid[0] & 0x1F != self.length - 1:
            return None
        worker_offset = 1 + self.node_bytes
        return Place(int.from_bytes(cid[1:worker_offset], "big"), cid[worker_offset])


class IdFactory:
    """Issues the connection IDs of one worker, with their stateless reset tokens."""

    def __init__(
        self,
        layout: IdLayout,
        node: int,
        worker: int,
        entropy: Callable[[int], bytes],
        ring: KeyRing,
        in_use: Container[bytes] = (),
    ) -> None:
        """`in_use` holds IDs that must not be issued again: a routing table's `owners`."""
        if not 0 <= node <= layout.max_node or not 0 <= worker <= MAX_WORKER:
            raise ConfigurationError(
                f"node is 0 to {layout.max_node} and worker 0 to {MAX_WORKER},"
                f" got {node} and {worker}",
                code="place",
            )
        self.layout = layout
        self.place = Place(node, worker)
        self.ring = ring  # replaced at a key rotation
        self._entropy = entropy
        self._in_use = in_use

    def issue(self) -> tuple[bytes, bytes]:
        """Return a fresh (connection ID, stateless reset token)."""
        for _ in range(_ISSUE_TRIES):
            cid = self.layout.encode(self.place, self._entropy(1 + self.layout.nonce_bytes))
            if cid not in self._in_use:
                return cid, reset_token(self.ring.active, cid)
        raise InternalError(
            f"{_ISSUE_TRIES} fresh connection IDs in a row were in use: the entropy source"
            " repeats itself, or nonce_bytes is too small for this many connections"
        )

    def decode(self, cid: bytes) -> Place | None:
        """Return the (node, worker) that issued `cid`, or None when it is not of our layout."""
        return self.layout.decode(cid)

    def __repr__(self) -> str:
        return f"IdFactory(node={self.place.node}, worker={self.place.worker}, {self.layout!r})"
