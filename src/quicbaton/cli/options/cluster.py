"""Options of all commands that talk to servers, which may be on other hosts."""

from pathlib import Path
from typing import Annotated

from quicbaton.cli.options.argument import Argument, Options


class ClusterOptions(Options, frozen=True, kw_only=True):
    """The cluster whose servers may be named."""

    cluster: Annotated[
        Path | None,
        Argument(
            "folder of `quicbaton keys init`: talk to its nodes (QUICBATON_CLUSTER)",
            "DIR",
            variable="QUICBATON_CLUSTER",
        ),
    ] = None
    node_name: Annotated[
        str | None,
        Argument(
            "the node that we are (QUICBATON_NODE; default: the one whose key is in the folder)",
            "NAME",
            variable="QUICBATON_NODE",
        ),
    ] = None
