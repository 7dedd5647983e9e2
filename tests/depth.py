"""How long those tests look that could look for ever: `make test-deep` looks longer."""

from __future__ import annotations

import os
from typing import TypeVar

_Value = TypeVar("_Value")


def deep(usual: _Value, deeper: _Value) -> _Value:
    return deeper if os.environ.get("QUICBATON_TEST_DEEP") else usual
