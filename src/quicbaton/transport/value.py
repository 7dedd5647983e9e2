"""The base of values whose classes are in compiled modules.

mypyc drops the keywords of a class, so a Struct there would be one without its options. Here it
inherits them, from a module that is not compiled.
"""

from __future__ import annotations

from msgspec import Struct


class Value(Struct, frozen=True, gc=False):
    """A frozen struct."""
