"""The key ring: the key that seals, and the earlier ones that still open.

A rotation has three steps, and every node completes one before any node begins the next. First give
every node the new key as a retired one, so that all can open what it seals. Then make it the active
one everywhere. At last drop the old one, when everything that it sealed has expired: batons after
two minutes, session tickets and NEW_TOKENs after a day, connection IDs and their reset tokens when
the last connection from before the rotation has ended. Make the new key with
`ClusterKey.generate(entropy, beside=ring)`: connection IDs then tell under which key they were
issued.

The text form has one key a line, the active one first. Blank lines and lines that start with `#`
are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quicbaton.errors import ConfigurationError, PeerError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.limits import MAX_RING_KEYS
from quicbaton.reasons import Reason


class UnknownKeyError(PeerError):
    """Something was sealed under a key that the ring does not hold."""

    code = Reason.UNKNOWN_KEY


class KeyRing:
    """One active key and several retired ones; immutable."""

    __slots__ = ("_active", "_by_id")

    def __init__(self, active: ClusterKey, retired: Iterable[ClusterKey] = ()) -> None:
        keys = (active, *retired)
        if len(keys) > MAX_RING_KEYS:
            raise ConfigurationError(
                f"a key ring holds at most {MAX_RING_KEYS} keys, got {len(keys)};"
                " drop those whose batons and tokens have expired",
                code=Reason.RING_SIZE,
            )
        self._active = active
        self._by_id = {key.key_id: key for key in keys}
        if len(self._by_id) != len(keys):
            raise ConfigurationError(
                "two keys of the ring have the same id; each key belongs in it once",
                code=Reason.RING_DUPLICATE,
            )

    @property
    def active(self) -> ClusterKey:
        """The key that seals."""
        return self._active

    @property
    def retired(self) -> tuple[ClusterKey, ...]:
        """The keys that only open, newest first."""
        return tuple(self)[1:]

    def get(self, key_id: bytes) -> ClusterKey | None:
        """Return the key with this id, or None."""
        return self._by_id.get(key_id)

    def find(self, key_id: bytes) -> ClusterKey:
        """Return the key with this id.

        Raises:
            UnknownKeyError: the ring does not hold it.
        """
        key = self._by_id.get(key_id)
        if key is None:
            held = ", ".join(key.key_id.hex() for key in self)
            raise UnknownKeyError(
                f"no key {key_id.hex()} in the ring, which holds {held}; was it dropped too early?"
            )
        return key

    def rotate(self, new: ClusterKey) -> KeyRing:
        """Return a ring in which `new` seals and all present keys open.

        `new` may be in the ring already, as a retired key: the second step of a rotation.
        """
        return KeyRing(new, [key for key in self if key != new])

    def encode(self) -> str:
        """Return the text form, which contains the secrets."""
        return "".join(key.encode() + "\n" for key in self)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read the text form.

        Raises:
            ConfigurationError: no key in it, or a line that is not a key.
        """
        keys = []
        for number, line in enumerate(text.splitlines(), start=1):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            try:
                keys.append(ClusterKey.parse(stripped))
            except ConfigurationError as error:
                raise ConfigurationError(f"line {number}: {error}", code=error.code) from None
        if not keys:
            raise ConfigurationError("the key file holds no key", code=Reason.RING_EMPTY)
        return cls(keys[0], keys[1:])

    def __iter__(self) -> Iterator[ClusterKey]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        retired = ", ".join(key.key_id.hex() for key in self.retired)
        return f"KeyRing(active={self._active.key_id.hex()}, retired=[{retired}])"
