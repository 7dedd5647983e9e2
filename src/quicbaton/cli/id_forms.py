"""The forms of connection IDs that `serve --ids` names."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Final

from quicbaton.cli.options.serve import ServeOptions
from quicbaton.errors import ConfigurationError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.routing.id_text import AWS_NLB, PLAINTEXT, parse_ids
from quicbaton.routing.quic_lb import IdConfigs
from quicbaton.service.peers.cluster import Cluster

#: As Elastic Load Balancing's API has it (TargetDescription.QuicServerId).
_SERVER_ID: Final = re.compile(r"0x[0-9a-fA-F]{16}")


def chosen_ids(options: ServeOptions, ring: KeyRing) -> IdConfigs:
    """The forms that `--ids` names, under the keys of `ring`."""
    text = options.ids or (PLAINTEXT if options.server_id is None else AWS_NLB)
    if text.startswith("@"):
        text = _read(Path(text.removeprefix("@")))
    elif "key=" in text:
        raise ConfigurationError(
            "others can read the key in the list of processes: write the forms to a file of yours"
            " and give --ids @FILE",
            code=Reason.IDS_TEXT,
        )
    return parse_ids(text, ring)


def node_number(options: ServeOptions, cluster: Cluster | None) -> int:
    """The number of this node in its IDs: the balancer's, the cluster's, or 0."""
    known = 0 if cluster is None else cluster.own_entry().number
    if options.server_id is None:
        return known
    if _SERVER_ID.fullmatch(options.server_id) is None:
        raise ConfigurationError(
            f"--server-id is 0x and 16 hexadecimal digits, got {options.server_id!r}",
            code=Reason.IDS_TEXT,
        )
    number = int(options.server_id, 16)
    if cluster is not None and number != known:
        raise ConfigurationError(
            f"--server-id (AWS_LBC_QUIC_SERVER_ID) is {number:#018x}, and cluster.toml gives this "
            f"node the number {known:#x}: write the former there",
            code=Reason.CONFIGURATION,
        )
    return number


def _read(path: Path) -> str:
    """The forms in a file, one a line. Lines that start with # are skipped."""
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
