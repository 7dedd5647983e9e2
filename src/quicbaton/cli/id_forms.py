"""What connection IDs look like."""

from __future__ import annotations

import stat
from pathlib import Path

from quicbaton.errors import ConfigurationError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.routing.id_text import parse_ids
from quicbaton.routing.quic_lb import IdConfigs


def chosen_ids(text: str, ring: KeyRing) -> IdConfigs:
    """The forms that `--ids` names, under the keys of `ring`."""
    if text.startswith("@"):
        text = _read(Path(text.removeprefix("@")))
    elif "key=" in text:
        raise ConfigurationError(
            "others can read the key in the list of processes: write the forms to a file of yours"
            " and give --ids @FILE",
            code=Reason.IDS_TEXT,
        )
    return parse_ids(text, ring)


def _read(path: Path) -> str:
    """A form a line; lines that start with # are skipped."""
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the forms of IDs in {path}: {error}") from error
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    if "key=" in text and stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(
            f"{path} holds a key and others may read it: chmod 600 {path}", code=Reason.NOT_PRIVATE
        )
    return text
