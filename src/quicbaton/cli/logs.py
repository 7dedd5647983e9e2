"""`quicbaton serve`: the form and the destination of its logs."""

from __future__ import annotations

import json
import logging
import logging.config
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from quicbaton.cli.options.serve import LogOptions
from quicbaton.cli.output import Output
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

#: The arguments of an access record, and its further fields (`asyncio.access`).
_ACCESS_ARGUMENTS: Final = ("client", "method", "path", "http_version", "status")
_ACCESS_FIELDS: Final = ("sent_bytes", "duration_ms", "connection")
_FORMAT: Final = "%(asctime)s %(levelname)s {worker}%(message)s"


def configure(options: LogOptions, output: Output, *, worker: int | None = None) -> None:
    """Have this process log to `output` in the form that the options name.

    Raises ConfigurationError for a --log-config that cannot be used.
    """
    logging.getLogger("quicbaton.access").disabled = not options.access_log
    if options.log_config is not None:
        _configure_by(options.log_config)
        return
    handler = logging.StreamHandler(output)
    kind = _JsonFormatter if options.log_format == "json" else _Formatter
    handler.setFormatter(kind(worker))
    logger = logging.getLogger("quicbaton")
    logger.handlers = [handler]
    logger.setLevel(options.log_level.upper())
    logger.propagate = False
    # Exceptions of callbacks.
    logging.getLogger("asyncio").handlers = [handler]


class _Formatter(logging.Formatter):
    """Time, level, worker and message; an access record has more."""

    def __init__(self, worker: int | None) -> None:
        super().__init__(_FORMAT.format(worker="" if worker is None else f"[{worker}] "))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        line = super().formatMessage(record)
        fields = vars(record)
        if "duration_ms" in fields:
            sent, took = fields["sent_bytes"], fields["duration_ms"]
            line += f" {sent} bytes {took:.1f} ms {fields['connection']}"
        return line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, with the same: an access record has `client`, `method`, `path`,
    `http_version` and `status` instead of a message."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        fields = vars(record)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
        }
        if "duration_ms" in fields:
            said |= dict(zip(_ACCESS_ARGUMENTS, cast("tuple[Any, ...]", record.args), strict=True))
            said |= {name: fields[name] for name in _ACCESS_FIELDS}
        else:
            said["message"] = record.getMessage()
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def _configure_by(path: Path) -> None:
    try:
        if path.suffix == ".json":
            logging.config.dictConfig(json.loads(path.read_text()))
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except Exception as error:
        # The boundary to the user's file, which may name any class of any module.
        raise ConfigurationError(
            f"cannot use --log-config {path}: {type(error).__name__}: {error}",
            code=Reason.LOG_CONFIG,
        ) from error
