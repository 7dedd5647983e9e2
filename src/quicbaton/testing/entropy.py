"""Randomness that a seed repeats. For tests only: `serve` refuses such a source."""

from __future__ import annotations

from random import Random


class Entropy:
    """An entropy source for everything in quicbaton that takes one: `entropy(n)` gives n bytes."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._random = Random(f"quicbaton {seed}")

    def __call__(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def child(self, name: str) -> Entropy:
        """An independent source: draws from one do not change the other."""
        return Entropy(f"{self._seed}/{name}")

    def __repr__(self) -> str:
        return f"Entropy({self._seed!r})"
