"""The logger that programs written for aioquic find at `_quic._logger`."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """Writes to the logger "quic" with the connection's original ID in front, as aioquic does."""

    def __init__(self, original_id: bytes) -> None:
        super().__init__(logging.getLogger("quic"), {"id": original_id.hex()})

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        assert self.extra is not None  # given above
        return f"[{self.extra['id']}] {msg}", kwargs
