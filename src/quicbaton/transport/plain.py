"""What all structs of a connection's state have in common: see `state`."""

from __future__ import annotations

from msgspec import Struct

#: A float that is often nothing at all: written as the integer 0 it takes one byte, not nine.
MostlyZero = int | float


class PlainState(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of all state: encoded as an array, one element per field, none optional.

    State is a tree, so the garbage collector need not look for cycles in it: 16 bytes less for
    each of some 30 objects, and fewer collections where thousands of connections arrive.
    """
