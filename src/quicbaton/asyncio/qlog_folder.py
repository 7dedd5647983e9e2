"""qlog files that continue across owners: one per connection, named by its original ID.

JSON text sequences (RFC 7464, the streaming form of qlog): every owner appends its events to
`FOLDER/<original id>.sqlog`, with absolute times, so processes that share the folder continue one
trace. Give `QlogFolder(path)` as `configuration.quic_logger`.

Events that cannot be written are lost and counted: a full disk costs the log, never a connection. A
record that was written in part ends at the separator of the next (RFC 7464 §2.3).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

_RECORD_SEPARATOR = b"\x1e"
_BUFFER_BYTES = 1 << 16


class QlogTrace(QuicLoggerTrace):
    """One connection's trace as this process writes it."""

    def __init__(self, *, is_client: bool, odcid: bytes, path: Path, lost: Counter[str]) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self._lost = lost
        self._records: list[bytes] = []
        self._bytes = 0
        try:
            # Every write is one append of whole records: two owners never mix within a record.
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            self._file = -1
            lost["qlog"] += 1
            return
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
        self.log_event_at(time.time(), category=category, event=event, data=data)

    def log_event_at(self, at_s: float, *, category: str, event: str, data: dict[str, Any]) -> None:
        """Log an event of that moment, in seconds since 1970."""
        self._append(
            {
                "time": at_s * 1000,
                "name": f"{category}:{event}",
                "data": data,
                "pid": os.getpid(),
            }
        )

    def flush(self) -> None:
        """Write the buffered events: before a handoff, so that owners' events stay in order."""
        if not self._records:
            return
        data = b"".join(self._records)
        try:
            whole = os.write(self._file, data) == len(data)
        except OSError:
            whole = False
        if not whole:
            self._lost["qlog"] += len(self._records)
        self._records.clear()
        self._bytes = 0

    def close(self) -> None:
        """Write the buffered events and close the file."""
        if self._file >= 0:
            self.flush()
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
    """Makes one file per connection in a folder, or continues the existing one. Records
    that cannot be written are counted in `lost["qlog"]`."""

    def __init__(self, path: Path, lost: Counter[str] | None = None) -> None:
        super().__init__()
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.lost: Counter[str] = Counter() if lost is None else lost

    def start_trace(self, is_client: bool, odcid: bytes) -> QlogTrace:
        path = self._path / f"{odcid.hex()}.sqlog"
        return QlogTrace(is_client=is_client, odcid=odcid, path=path, lost=self.lost)

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        if isinstance(trace, QlogTrace):
            trace.close()
