"""Which quicbaton runs: its version, and in which form.

Wheels for one Python and kind of machine bring the modules that work most compiled, from the same
source: nothing but the speed depends on it.
"""

from __future__ import annotations

from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from typing import Final

#: One of the modules that are compiled where any is.
_COMPILED: Final = "quicbaton.transport.frames"


@cache
def is_compiled() -> bool:
    spec = find_spec(_COMPILED)
    return spec is not None and isinstance(spec.loader, ExtensionFileLoader)


@cache
def version() -> str:
    """The installed release's, "0.2.0"."""
    from importlib import metadata  # noqa: PLC0415 - slow to import

    return metadata.version("quicbaton")
