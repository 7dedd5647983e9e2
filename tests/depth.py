"""How long tests search that could search for ever: `make test-deep` searches longer."""

from __future__ import annotations

import os
from typing import TypeVar

_Value = TypeVar("_Value")


def deep(usual: _Value, deeper: _Value) -> _Value:
    return deeper if os.environ.get("QUICBATON_TEST_DEEP") else usual
