"""Connection IDs that say which node and worker issued them: QUIC-LB in full.

draft-ietf-quic-load-balancers, "CID format":

    first octet (3 bits config rotation, 5 bits length or random)
    | server ID = node (`node_bytes`) | worker (1) | nonce (`nonce_bytes`)     maybe encrypted
    | worker, masked (1)                                                       if `mask` is set

The worker is the last octet of the draft's server ID, as the draft's "load balancer chains" and
"server process demultiplexing" have it. A balancer that knows only nodes reads the shorter prefix
and takes the worker for a part of the nonce. In a plaintext ID the worker stands at a fixed offset,
where a classic BPF program finds it (`steering`). In an encrypted ID the program cannot see it. The
masked octet at the end repeats it there, for readers that have the host's key (`worker_mask`).

Configurations. The three bits name one of up to seven (`IdConfigs`): one issues, all are decoded.
0b111 means that no balancer may route the ID, and is never ours. All of a set make IDs of one
length, because a short header does not say how long its ID is: the endpoint's fast path, aioquic
and the transport each cut it at one length. A length that depended on the ID's first octet would
cost the fast path a lookup per datagram, for a case that rotation hardly needs.

The nonce. The draft wants at least 4 octets and never the same nonce twice.

* Plaintext: no observable relationship between nonces, which rules a counter out. A random nonce
  of 4 octets repeats after about 2^16 IDs: a busy worker reaches that in minutes, and two clients
  with one ID hold each other's reset token (RFC 9000 §10.3.2). With 8 octets a repeat is expected
  after 2^32 IDs of one worker, and against 100,000 live IDs a new one collides with a chance of
  5e-15. Eight random octets also are the "64 bits of entropy" with which an ID validates its
  sender's address (RFC 9000 §8.1). Hence the default: 1 + 2 + 1 + 8 = 12 octets. Only packets
  towards the server carry them, so the 4 octets more than an 8-octet ID cost downloads nothing but
  0.3 % of the uplink. The short form, `nonce_bytes=4`, is for small services; give `IdFactory` the
  IDs in use.
* Encrypted: a counter that starts at random, as the draft recommends, since the cipher hides the
  relationship. It repeats nothing until it has gone all the way round; then issuing is refused. A
  process that is started again begins elsewhere: with 7 octets, a thousand processes of a million
  IDs each overlap somewhere with a chance of 1 in 70,000.

The five low bits of the first octet are random unless `describes_length` is set.

Where we deviate: the draft says that plaintext IDs SHOULD NOT be issued in NEW_CONNECTION_ID
frames, because an observer can link them to the server. Cutover needs those frames (the draft's own
"moving connections between servers"). Every plaintext ID of ours, the first included, shows node
and worker to an observer. A client that migrates to hide is linked to this server, among all its
other clients. Operators that mind use encrypted IDs.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.reasons import Reason
from quicbaton.routing.id_cipher import MAX_BYTES, MIN_BYTES, IdCipher
from quicbaton.routing.worker_mask import HASHED_BYTES, WorkerMask

#: 0b111 is reserved for IDs that no balancer may route (the draft's "configuration failover").
MAX_CONFIG_ID: Final = 6
MIN_ID_BYTES: Final = 8
#: RFC 9000 §17.2.
MAX_ID_BYTES: Final = 20
MIN_NONCE_BYTES: Final = 4
WORKER_BYTES: Final = 1
MAX_WORKER: Final = 255

_ISSUE_TRIES: Final = 16


class Place(NamedTuple):
    """Where a connection lives: a node of the cluster and a worker on it."""

    node: int
    worker: int


class IdLayout(Struct, frozen=True):
    """One configuration: the form of connection IDs with these config rotation bits."""

    config_id: int = 0
    node_bytes: int = 2
    nonce_bytes: int = 8
    describes_length: bool = False
    #: Encrypts server ID and nonce; None: plaintext.
    cipher: IdCipher | None = None
    #: Appends the worker, masked, for the kernel to read; with a cipher only.
    mask: WorkerMask | None = None
    #: Ids of the cluster keys that were active when such IDs were issued; empty: any key was
    #: possible.
    issued_under: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.config_id <= MAX_CONFIG_ID:
            raise ConfigurationError(
                f"config_id is 0 to {MAX_CONFIG_ID} (7 is reserved), got {self.config_id}",
                code=Reason.ID_LAYOUT,
            )
        if self.node_bytes < 1 or self.nonce_bytes < MIN_NONCE_BYTES:
            raise ConfigurationError(
                f"node_bytes is 1 at least and nonce_bytes {MIN_NONCE_BYTES},"
                f" got {self.node_bytes} and {self.nonce_bytes}",
                code=Reason.ID_LAYOUT,
            )
        if not (
            MIN_ID_BYTES <= self.length <= MAX_ID_BYTES and MIN_BYTES <= self._inner <= MAX_BYTES
        ):
            raise ConfigurationError(
                f"IDs have {MIN_ID_BYTES} to {MAX_ID_BYTES} bytes; {self.node_bytes} for the node"
                f" and {self.nonce_bytes} for the nonce make {self.length}",
                code=Reason.ID_LAYOUT,
            )
        if self.mask is not None and (self.cipher is None or self._inner < HASHED_BYTES):
            raise ConfigurationError(
                f"a masked worker stands beside {HASHED_BYTES} encrypted bytes or more; a plaintext"
                " ID shows its worker as it is: leave the mask away",
                code=Reason.ID_LAYOUT,
            )

    @property
    def length(self) -> int:
        """Bytes of every ID."""
        return 1 + self._inner + (0 if self.mask is None else WORKER_BYTES)

    @property
    def worker_offset(self) -> int | None:
        """Index of the octet with the worker, plain or masked; None where no octet shows it."""
        if self.cipher is None:
            return 1 + self.node_bytes
        return None if self.mask is None else self.length - 1

    @property
    def max_node(self) -> int:
        """The highest node number that fits."""
        return (1 << (8 * self.node_bytes)) - 1

    def encode(self, place: Place, random: bytes) -> bytes:
        """Return the ID of `place` made of `random`, which has 1 + `nonce_bytes` bytes: the first
        for the low bits of the first octet, the others are the nonce."""
        if len(random) != 1 + self.nonce_bytes:
            raise InternalError(
                f"an ID takes {1 + self.nonce_bytes} random bytes, got {len(random)}"
            )
        low = self.length - 1 if self.describes_length else random[0] & 0x1F
        first = bytes((self.config_id << 5 | low,))
        server_id = place.node.to_bytes(self.node_bytes, "big") + bytes((place.worker,))
        inner = server_id + random[1:]
        if self.cipher is None:
            return first + inner
        inner = self.cipher.encrypt(inner)
        if self.mask is None:
            return first + inner
        return first + inner + bytes((place.worker ^ self.mask.of(inner),))

    def decode(self, cid: bytes) -> Place | None:
        """Return the place that issued `cid`, or None when `cid` is not of this layout.

        A client's random ID of the right length passes for ours with a chance of 1 in 8, and with
        any given place with 1 in 8 * 256 * 256^node_bytes: this is a hint, never a proof.
        """
        if len(cid) != self.length or cid[0] >> 5 != self.config_id:
            return None
        if self.describes_length and cid[0] & 0x1F != self.length - 1:
            return None
        inner = cid[1 : 1 + self._inner]
        if self.cipher is not None:
            inner = self.cipher.decrypt(inner)
        return Place(int.from_bytes(inner[: self.node_bytes], "big"), inner[self.node_bytes])

    @property
    def _inner(self) -> int:
        """Bytes that a cipher encrypts: the draft's server ID and nonce."""
        return self.node_bytes + WORKER_BYTES + self.nonce_bytes


class IdConfigs:
    """The configurations in force: one issues, all decode (the draft's "config rotation")."""

    def __init__(self, issuing: IdLayout, accepted: Iterable[IdLayout] = ()) -> None:
        """`accepted` are earlier configurations, and the next one before any node issues by it.

        Raises:
            ConfigurationError: two have the same bits, or IDs of different lengths.
        """
        layouts = (issuing, *accepted)
        self.issuing = issuing
        self.length = issuing.length
        self._by_bits: list[IdLayout | None] = [None] * (MAX_CONFIG_ID + 2)
        for layout in layouts:
            if layout.length != self.length:
                raise ConfigurationError(
                    f"all connection IDs have one length; configuration {issuing.config_id} makes"
                    f" {self.length} bytes, configuration {layout.config_id} {layout.length}:"
                    " give them nonces such that they agree",
                    code=Reason.ID_LENGTHS,
                )
            if self._by_bits[layout.config_id] is not None:
                raise ConfigurationError(
                    f"two configurations have the id {layout.config_id}: give each its own, or,"
                    " if they come from cluster keys, make another new key"
                    " (`ClusterKey.generate` with `beside`)",
                    code=Reason.ID_CONFIGS,
                )
            self._by_bits[layout.config_id] = layout
        self._layouts = layouts

    @classmethod
    def of(cls, layout: IdLayout | IdConfigs) -> IdConfigs:
        """Return `layout` itself if it is a set, else a set of it alone."""
        return layout if isinstance(layout, IdConfigs) else cls(layout)

    def layout_of(self, cid: bytes) -> IdLayout | None:
        """Return the configuration that the first octet of `cid` names, if it is one of ours."""
        return self._by_bits[cid[0] >> 5] if cid else None

    def decode(self, cid: bytes) -> Place | None:
        """Return the place that issued `cid`, or None: a hint, as `IdLayout.decode`."""
        layout = self.layout_of(cid)
        return None if layout is None else layout.decode(cid)

    def is_current(self, cid: bytes) -> bool:
        """Whether `cid` is of the configuration that issues. If not, it should be retired (the
        draft's "config rotation")."""
        return self.layout_of(cid) is self.issuing

    def keys_of(self, cid: bytes, ring: KeyRing) -> list[ClusterKey]:
        """Return the keys of `ring` under which `cid` may have been issued: one, as a rule."""
        layout = self.layout_of(cid)
        under = () if layout is None else layout.issued_under
        return [key for key in ring if key.key_id in under] or list(ring)

    def __iter__(self) -> Iterator[IdLayout]:
        """All configurations, the one that issues first."""
        return iter(self._layouts)

    def __repr__(self) -> str:
        return f"IdConfigs(issuing={self.issuing!r}, accepted={len(self._layouts) - 1})"


class IdFactory:
    """Issues the connection IDs of one worker, with their stateless reset tokens."""

    def __init__(
        self,
        layout: IdLayout | IdConfigs,
        node: int,
        worker: int,
        entropy: Callable[[int], bytes],
        ring: KeyRing,
        in_use: Container[bytes] = (),
    ) -> None:
        """`in_use` holds IDs that must not be issued again: a routing table's `owners`."""
        self.configs = IdConfigs.of(layout)
        self.layout = self.configs.issuing
        if not 0 <= node <= self.layout.max_node or not 0 <= worker <= MAX_WORKER:
            raise ConfigurationError(
                f"node is 0 to {self.layout.max_node} and worker 0 to {MAX_WORKER},"
                f" got {node} and {worker}",
                code=Reason.PLACE,
            )
        self.place = Place(node, worker)
        self.ring = ring
        self._entropy = entropy
        self._in_use = in_use
        self._next_nonce: int | None = None
        self._random_bytes = 1 + self.layout.nonce_bytes
        #: Nonces that an encrypted configuration has left here. A plaintext one draws them.
        self.nonces_left = 1 << 8 * self.layout.nonce_bytes

    def issue(self) -> tuple[bytes, bytes]:
        """Return a fresh (connection ID, stateless reset token).

        Raises:
            ConfigurationError: code `nonces_exhausted`: all IDs of this configuration were issued.
        """
        layout = self.layout
        for _ in range(_ISSUE_TRIES):
            # A plaintext nonce is drawn, an encrypted one is counted.
            random = self._entropy(self._random_bytes) if layout.cipher is None else self._random()
            cid = layout.encode(self.place, random)
            if cid not in self._in_use:
                return cid, reset_token(self.ring.active, cid)
        raise InternalError(
            f"{_ISSUE_TRIES} fresh connection IDs in a row were in use: the entropy source"
            " repeats itself, or nonce_bytes is too small for this many connections"
        )

    def decode(self, cid: bytes) -> Place | None:
        """Return the (node, worker) that issued `cid`, or None when it is not one of ours."""
        return self.configs.decode(cid)

    def outdated(self, cid: bytes) -> bool:
        """Whether a connection that lives here should stop using its ID `cid`: it leads to another
        worker, or is of a configuration that no longer issues (the draft's "config rotation":
        servers MUST update the client). An empty ID leads nowhere and never is outdated."""
        return bool(cid) and not (
            self.configs.is_current(cid) and self.configs.issuing.decode(cid) == self.place
        )

    def _random(self) -> bytes:
        """The random octet, and a nonce that was not used before by an encrypted configuration."""
        size = self.layout.nonce_bytes
        # The draft, "Connection ID Entropy": no nonce is used again under the same key.
        if not self.nonces_left:
            raise ConfigurationError(
                f"all connection IDs of configuration {self.layout.config_id} were issued: rotate"
                " the cluster key, or use a longer nonce",
                code=Reason.NONCES_EXHAUSTED,
            )
        self.nonces_left -= 1
        nonce = self._next_nonce
        if nonce is None:
            nonce = int.from_bytes(self._entropy(size), "big")
        self._next_nonce = (nonce + 1) % (1 << 8 * size)
        return self._entropy(1) + nonce.to_bytes(size, "big")

    def __repr__(self) -> str:
        return f"IdFactory(node={self.place.node}, worker={self.place.worker}, {self.layout!r})"
