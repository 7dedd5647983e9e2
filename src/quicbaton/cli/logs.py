"""`quicbaton serve`: the form and the destination of its logs."""

from __future__ import annotations

import json
import logging
import logging.config
from pathlib import Path
from typing import Final

from quicbaton.cli.options.serve import LogOptions
from quicbaton.cli.output import Output
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

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
    handler.setFormatter(_Formatter("" if worker is None else f"[{worker}] "))
    logger = logging.getLogger("quicbaton")
    logger.handlers = [handler]
    logger.setLevel(options.log_level.upper())
    logger.propagate = False
    # Exceptions of callbacks.
    logging.getLogger("asyncio").handlers = [handler]


class _Formatter(logging.Formatter):
    """Time, level, worker and message; an access record has more."""

    def __init__(self, worker: str) -> None:
        super().__init__(_FORMAT.format(worker=worker))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        line = super().formatMessage(record)
        fields = vars(record)
        if "duration_ms" in fields:
            sent, took = fields["sent_bytes"], fields["duration_ms"]
            line += f" {sent} bytes {took:.1f} ms {fields['connection']}"
        return line


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
