"""The options of all commands but `serve`."""

from pathlib import Path
from typing import Annotated

from quicbaton.cli.options.argument import Argument, CommandOptions, OneOf, Options
from quicbaton.cli.options.cluster import ClusterOptions

_SERVER = "the server: its control socket, [HOST:]PORT, or NODE[/WORKER] of the cluster"
_TRUST = OneOf("trust")
_STEP = OneOf("step", required=True)


_Server = Annotated[str, Argument(_SERVER, "SERVER", positional=True)]
_Connection = Annotated[
    str,
    Argument("its name in `quicbaton ps`, or the beginning of the name", "CONN", positional=True),
]
_Destination = Annotated[
    str,
    Argument("the destination: its control socket, [HOST:]PORT, or NODE[/WORKER]", "SERVER"),
]
_Proxy = Annotated[
    bool,
    Argument(
        "if the destination cannot send from the address that clients talk to, let this process "
        "send for it, for as long as a connection lives"
    ),
]
_Settle = Annotated[
    float,
    Argument(
        "with --json: how long to wait for the end of the handoff's timeline, when its client has "
        "cut over to the destination's connection IDs"
    ),
]
_Timelines = Annotated[
    bool, Argument("with --json: print each handoff's timeline, too, one a line")
]
_Baton = Annotated[Path, Argument("a file that `quicbaton save` has made", positional=True)]


class PsOptions(CommandOptions, frozen=True, kw_only=True):
    """List live connections."""

    server: Annotated[
        str | None,
        Argument(f"{_SERVER} (default: all of yours on this host)", "SERVER", positional=True),
    ] = None
    cluster: ClusterOptions = ClusterOptions()


class HandoffOptions(CommandOptions, frozen=True, kw_only=True):
    """Move a live connection to another process. The client sees nothing."""

    server: _Server
    connection: _Connection
    to: _Destination
    proxy: _Proxy = False
    settle: _Settle = 2.0
    cluster: ClusterOptions = ClusterOptions()


class SaveOptions(CommandOptions, frozen=True, kw_only=True):
    """Freeze a connection into a baton in a new file. It stands still until `quicbaton resume`
    brings it back; the server stays its arbiter and must live on.
    """

    server: _Server
    connection: _Connection
    file: Annotated[Path, Argument("the file to make", positional=True)]
    cluster: ClusterOptions = ClusterOptions()


class ResumeOptions(CommandOptions, frozen=True, kw_only=True):
    """Bring a saved connection back to life in another process, once."""

    file: _Baton
    to: _Destination
    settle: _Settle = 2.0
    cluster: ClusterOptions = ClusterOptions()


class InspectOptions(CommandOptions, frozen=True, kw_only=True):
    """Show a baton's header and its content, with every secret left out: keys, tokens and the
    bytes of streams. It is opened as a server would open it: by the keys of --cluster, or yours.
    """

    files: Annotated[
        tuple[Path, ...],
        Argument("files that `quicbaton save` has made", "FILE", positional=True),
    ]
    diff: Annotated[bool, Argument("show what changed from the first of two to the second")] = False
    keys: Annotated[Path | None, Argument("other cluster keys, by which it was sealed")] = None
    cluster: ClusterOptions = ClusterOptions()


class TimelineOptions(CommandOptions, frozen=True, kw_only=True):
    """Draw handoffs as an SVG: a row for each, its phases as bars."""

    files: Annotated[
        tuple[Path, ...],
        Argument(
            "what `handoff --json`, `resume --json` or `drain --timelines --json` printed, or a "
            "qlog file of ours",
            "FILE",
            positional=True,
        ),
    ]
    output: Annotated[
        Path, Argument("the picture to make, or to make anew", flags=("-o", "--output"))
    ] = Path("timeline.svg")


class BulkOptions(Options, frozen=True, kw_only=True):
    """Options for moving many connections."""

    proxy: _Proxy = False
    deadline: Annotated[float, Argument("leave connections that have not moved by then")] = 60.0
    timelines: _Timelines = False


class DrainOptions(CommandOptions, frozen=True, kw_only=True):
    """Move all connections of a server, or of all its workers, to others. Those that still come
    are passed on, too, until `drain --undo`. Clients see nothing.
    """

    server: _Server
    to: Annotated[tuple[str, ...], Argument("the destinations, in turn", "SERVER")] = ()
    undo: Annotated[bool, Argument("keep connections again")] = False
    bulk: BulkOptions = BulkOptions()
    cluster: ClusterOptions = ClusterOptions()


class RebalanceOptions(CommandOptions, frozen=True, kw_only=True):
    """Move connections so that each worker has about as many as every other."""

    servers: Annotated[tuple[str, ...], Argument(_SERVER, "SERVER", positional=True)]
    bulk: BulkOptions = BulkOptions()
    cluster: ClusterOptions = ClusterOptions()


class ServiceOptions(CommandOptions, frozen=True, kw_only=True):
    """The service that a command is for."""

    server: Annotated[
        str | None, Argument(f"{_SERVER} (default: the only service)", "SERVER", positional=True)
    ] = None
    cluster: ClusterOptions = ClusterOptions()


class WorkersOptions(ServiceOptions, frozen=True, kw_only=True):
    """Show a service's workers."""


class ReloadOptions(ServiceOptions, frozen=True, kw_only=True):
    """Replace all workers of a service, one by one: new code, new configuration, new
    certificates. Live connections move; new ones are accepted throughout. If a new worker does
    not come up healthy, the old one keeps everything, and this fails.
    """

    health_timeout: Annotated[
        float | None,
        Argument("time for each new worker to become ready (default: the service's own)"),
    ] = None
    grace: Annotated[
        float | None,
        Argument(
            "time for requests that still run at an old worker, and for connections that cannot "
            "move yet; then they are cut (default: for connections the service's --deadline; "
            "requests go on in the background, until they have ended)"
        ),
    ] = None
    timelines: _Timelines = False


class UpgradeOptions(ReloadOptions, frozen=True, kw_only=True):
    """Replace a service's supervisor by the program that is installed now, in the same process, and
    then all workers, as `reload` does. The new program is tried first, as by `check`: if it could
    not serve, nothing is replaced.
    """


class ScaleOptions(CommandOptions, frozen=True, kw_only=True):
    """Have another number of workers, under live connections: those of workers that go move to the
    others. It holds until the service starts again, or the number in its configuration changes.
    """

    workers: Annotated[int, Argument("how many workers there are to be", "N", positional=True)]
    server: Annotated[
        str | None, Argument(f"{_SERVER} (default: the only service)", "SERVER", positional=True)
    ] = None
    cluster: ClusterOptions = ClusterOptions()


class StopOptions(ServiceOptions, frozen=True, kw_only=True):
    """Stop a server: no new clients, running requests may end, connections are closed, or
    handed to another server first.
    """

    to: Annotated[str | None, Argument("the server that gets the connections", "SERVER")] = None
    grace: Annotated[
        float | None, Argument("time for running requests (default: the server's own)")
    ] = None


class TopOptions(CommandOptions, frozen=True, kw_only=True):
    """Watch workers: connections, handoffs a second, blackout. Ends with Ctrl-C."""

    servers: Annotated[
        tuple[str, ...],
        Argument(
            f"{_SERVER} (default: all of yours on this host, or all nodes of --cluster)",
            "SERVER",
            positional=True,
        ),
    ] = ()
    interval: Annotated[float, Argument("between looks")] = 1.0
    count: Annotated[int, Argument("end after N looks")] = 0
    cluster: ClusterOptions = ClusterOptions()


class GetOptions(CommandOptions, frozen=True, kw_only=True):
    """Download over HTTP/3. The file appears under its name when it is whole."""

    url: Annotated[str, Argument("https://host[:port]/path", positional=True)]
    output: Annotated[Path | None, Argument("where to put it", flags=("-o", "--output"))] = None
    ca: Annotated[Path | None, Argument("trust this certificate (PEM)", one_of=_TRUST)] = None
    insecure: Annotated[
        bool, Argument("accept any certificate: any server may answer", one_of=_TRUST)
    ] = False
    cert: Annotated[
        Path | None, Argument("certificate chain (PEM) for a server that asks for ours")
    ] = None
    key: Annotated[Path | None, Argument("its private key (PEM)")] = None
    timeout: Annotated[float, Argument("how long to try to connect to each address")] = 10.0


class KeysOptions(CommandOptions, frozen=True, kw_only=True):
    """The folder of all `quicbaton keys` commands."""

    folder: Annotated[Path, Argument("the cluster's folder", "DIR", positional=True)]


class KeysInitOptions(KeysOptions, frozen=True, kw_only=True):
    """Make a small CA, a certificate for every node, and the cluster key."""

    nodes: Annotated[
        tuple[str, ...],
        Argument(
            "a node, and the address at which others reach it; repeat it for each node",
            "NAME=HOST[:PORT]",
            flags=("--node",),
            again=True,
        ),
    ]


class KeysAddNodeOptions(KeysOptions, frozen=True, kw_only=True):
    """Add nodes to a cluster's folder."""

    nodes: Annotated[
        tuple[str, ...], Argument("as for `init`", "NAME=HOST[:PORT]", positional=True)
    ]


class KeysRenewOptions(KeysOptions, frozen=True, kw_only=True):
    """Make new keys and certificates for nodes."""

    nodes: Annotated[tuple[str, ...], Argument("a node of the cluster", "NAME", positional=True)]


class KeysShowOptions(KeysOptions, frozen=True, kw_only=True):
    """Show a folder's nodes, certificates and keys, without secrets."""


class KeysRotateOptions(KeysOptions, frozen=True, kw_only=True):
    """Replace the cluster key in three steps. Before each step, copy the file from the step before
    to every host, and reload its servers.
    """

    add: Annotated[bool, Argument("1: a new key, which only opens", one_of=_STEP)] = False
    use: Annotated[str | None, Argument("2: this key seals from now on", "ID", one_of=_STEP)] = None
    drop: Annotated[
        str | None,
        Argument(
            "3: a day later, when the tokens that it sealed have expired: forget this key",
            "ID",
            one_of=_STEP,
        ),
    ] = None
