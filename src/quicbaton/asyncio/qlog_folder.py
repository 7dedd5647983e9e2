"""qlog files that continue across owners: one per connection, named by its original ID.

JSON text sequences (RFC 7464, the streaming form of qlog): every owner appends its events to
`FOLDER/<original id>.sqlog`, with absolute times, so processes that share the folder continue one
trace. Give `QlogFolder(path)` as `configuration.quic_logger`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

_RECORD_SEPARATOR = b"\x1e"
_BUFFER_BYTES = 1 << 16


class QlogTrace(QuicLoggerTrace):
    """One connection's trace as this process writes it."""

    def __init__(self, *, is_client: bool, odcid: bytes, path: Path) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        # Every write is one append of whole records: two owners never mix within a record.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._records: list[bytes] = []
        self._bytes = 0
        if os.fstat(self._file).st_size == 0:
            self._append(
                {
                    "qlog_format": "JSON-SEQ",
                    "qlog_version": "0.3",
                    "title": "quicbaton",
                    "trace": {
                        "common_fields": {"ODCID": odcid.hex(), "time_format": "absolute"},
                        "vantage_point": {"type": "client" if is_client else "server"},
                    },
                }
            )

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        self._append(
            {
                "time": time.time() * 1000,
                "name": f"{category}:{event}",
                "data": data,
                "pid": os.getpid(),
            }
        )

    def flush(self) -> None:
        """Write the buffered events: before a handoff, so that owners' events stay in order."""
        if self._records:
            os.write(self._file, b"".join(self._records))
            self._records.clear()
            self._bytes = 0

    def close(self) -> None:
        """Close the file. OSError when buffered events are lost."""
        try:
            self.flush()
        finally:
            self._records.clear()
            os.close(self._file)
            self._file = -1

    def _append(self, record: dict[str, Any]) -> None:
        if self._file < 0:
            return  # The number may be another file's by now.
        data = _RECORD_SEPARATOR + msgspec.json.encode(record) + b"\n"
        self._records.append(data)
        self._bytes += len(data)
        if self._bytes > _BUFFER_BYTES:
            self.flush()


class QlogFolder(QuicLogger):
    """Makes one file per connection in a folder, or continues the existing one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.mkdir(parents=True, exist_ok=True)
        self._path = path

    def start_trace(self, is_client: bool, odcid: bytes) -> QlogTrace:
        return QlogTrace(is_client=is_client, odcid=odcid, path=self._path / f"{odcid.hex()}.sqlog")

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        if isinstance(trace, QlogTrace):
            trace.close()
