"""The options of `quicbaton serve`, which a supervisor passes on to its workers."""

import argparse
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from quicbaton.cli.options.argument import Argument, CommandOptions, OneOf, Options
from quicbaton.cli.options.cluster import ClusterOptions
from quicbaton.limits import MAX_WORKERS, MEMORY_BUDGET_BYTES

#: Longer than the pause of a client between two requests, as a rule.
FOLDER_SLEEP_AFTER_S: Final = 10.0
_PROGRAM = OneOf("program", required=True)
_PREDECESSOR = OneOf("predecessor")


def parse_port(text: str) -> int:
    """For argparse: a port number; 0 is any."""
    # getaddrinfo cuts a larger number to 16 bits, and the server would listen at another port.
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def parse_listener(text: str) -> tuple[str, int]:
    """For argparse: [HOST:]PORT, where no host is this machine alone."""
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", parse_port(port)


_Port = Annotated[int, Meta(ge=0, le=65_535)]


class ProgramOptions(Options, frozen=True, kw_only=True):
    """The folder or the program that is served."""

    folder: Annotated[
        Path | None,
        Argument(
            "the folder to serve, or a program: an ASGI application, or a protocol class",
            "DIR or MODULE:NAME",
            positional=True,
            one_of=_PROGRAM,
        ),
    ] = None
    app: Annotated[
        str | None, Argument("the same as MODULE:NAME alone", "MODULE:NAME", one_of=_PROGRAM)
    ] = None
    app_dir: Annotated[Path | None, Argument("look for MODULE there (default: here)", "DIR")] = None
    factory: Annotated[
        bool, Argument("MODULE:NAME is a function without arguments that makes the program")
    ] = False
    root_path: Annotated[
        str,
        Argument("the path under which an ASGI program is mounted, which a proxy cuts off", "PATH"),
    ] = ""
    dotfiles: Annotated[
        bool,
        Argument(
            "serve files and folders whose names begin with a dot, too (.well-known always is)",
            flags=("--dotfiles", "--hidden"),
        ),
    ] = False
    sleep_after: Annotated[
        float | None,
        Argument(
            "shrink connections to about a kilobyte after this silence, until their next packet "
            f"(default: {FOLDER_SLEEP_AFTER_S:g} for a folder, never for a program; 0: never)"
        ),
    ] = None


class TlsOptions(Options, frozen=True, kw_only=True):
    """The certificates, and where their secrets are logged."""

    cert: Annotated[
        tuple[Path, ...],
        Argument(
            "certificate chain (PEM). Given again, each with its --key: clients are shown the "
            "first that is for the server name for which they ask, else the first of all",
            flags=("--cert", "--certificate", "--ssl-certfile"),
            again=True,
        ),
    ] = ()
    key: Annotated[
        tuple[Path, ...],
        Argument(
            "its private key (PEM); keys come in the order of their certificates",
            flags=("--key", "--ssl-keyfile"),
            again=True,
        ),
    ] = ()
    client_ca: Annotated[
        Path | None,
        Argument(
            "ask clients for certificates that an authority in this file (PEM) has issued; "
            "programs find them in scope['extensions']['tls']",
            flags=("--client-ca", "--ssl-ca-certs"),
        ),
    ] = None
    client_cert: Annotated[
        Literal["required", "optional"],
        Argument("with --client-ca: whether clients without a certificate are refused"),
    ] = "required"
    keylog: Annotated[
        Path | None,
        Argument(
            "append TLS secrets of new connections to FILE (NSS format): its readers can decrypt "
            "them"
        ),
    ] = None


class TcpOptions(Options, frozen=True, kw_only=True):
    """TCP beside UDP, for ASGI programs."""

    no_tcp: Annotated[
        bool,
        Argument("serve an ASGI program over HTTP/3 alone, not over HTTP/1.1 and HTTP/2 beside it"),
    ] = False
    timeout_keep_alive: Annotated[
        float, Argument("over TCP: close connections after this time without a request")
    ] = 5.0


class RequestLimits(Options, frozen=True, kw_only=True):
    """Limits on an ASGI program's requests, at once and in the life of a worker."""

    limit_concurrency: Annotated[
        int | None,
        Argument(
            "answer requests of an ASGI program with 503 while a process works on N others "
            "(default: no limit)"
        ),
    ] = None
    limit_max_requests: Annotated[
        int | None,
        Argument(
            "with --workers: replace a worker, as `quicbaton reload` does, after N requests of its "
            "ASGI program (default: never)"
        ),
    ] = None
    limit_max_requests_jitter: Annotated[
        int,
        Argument(
            "with --limit-max-requests: for each worker, add a random number up to N (default: 0)"
        ),
    ] = 0


class SupervisionOptions(Options, frozen=True, kw_only=True):
    """The number of workers, and their supervisor's timeouts."""

    workers: Annotated[
        int | None,
        Argument(
            f"serve with N processes (1 to {MAX_WORKERS}), which a supervisor keeps alive; "
            "`quicbaton reload` replaces them"
        ),
    ] = None
    grace: Annotated[
        float,
        Argument(
            "time for running requests when the server stops",
            flags=("--grace", "--timeout-graceful-shutdown"),
        ),
    ] = 10.0
    health_timeout: Annotated[
        float, Argument("with --workers: time for a new worker to become ready")
    ] = 30.0
    silence: Annotated[
        float, Argument("with --workers: kill a worker after this time without an answer")
    ] = 10.0


class WatchOptions(Options, frozen=True, kw_only=True):
    """New workers at each change of the program's files."""

    reload: Annotated[
        bool,
        Argument(
            "for development: when a Python file changes, replace the workers, as `quicbaton "
            "reload` does; connections and running requests stay"
        ),
    ] = False
    reload_dir: Annotated[
        tuple[Path, ...],
        Argument(
            "watch this folder, with all in it (default: that of --app-dir; may be given again)",
            "DIR",
            again=True,
        ),
    ] = ()


class LogOptions(Options, frozen=True, kw_only=True):
    """The form and the destination of logs."""

    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug"], Argument("what is logged")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Argument("lines for people, or one JSON object a line")
    ] = "text"
    access_log: Annotated[bool, Argument("log a line for each request")] = True
    log_config: Annotated[
        Path | None,
        Argument(
            "configure logging by this file instead: JSON for logging.config.dictConfig, or "
            "anything else for fileConfig. Loggers: quicbaton.access, quicbaton.asgi, "
            "quicbaton.files"
        ),
    ] = None


class ServeOptions(CommandOptions, frozen=True, kw_only=True):
    """Serve a folder, or a program, over HTTP/3. Live connections can be handed to another
    process with `quicbaton handoff`, or all at once by starting that with --takeover.
    """

    config: Annotated[
        Path | None,
        Argument(
            "read options from this file (default: quicbaton.toml, if it is here); each may also "
            "be in the environment, as QUICBATON_ and its name. The command line comes first, then "
            "the environment, then the file"
        ),
    ] = None
    program: ProgramOptions = ProgramOptions()
    host: Annotated[str, Argument("address to listen on (default: all)")] = ""
    port: Annotated[_Port, Argument("0: any free one", "PORT", parse=parse_port)] = 4433
    tls: TlsOptions = TlsOptions()
    control: Annotated[Path | None, Argument("path of our control socket", "SOCKET")] = None
    keys: Annotated[Path | None, Argument("cluster keys (default: yours)")] = None
    ids: Annotated[
        str | None,
        Argument(
            "forms of connection IDs, as 'encrypted plaintext': the first issues, all are "
            "understood; @FILE reads them from a file (default: plaintext, or aws-nlb with "
            "--server-id)",
            "FORMS",
        ),
    ] = None
    server_id: Annotated[
        str | None,
        Argument(
            "this server's ID at AWS's Network Load Balancer, 0x and 16 hexadecimal digits; "
            "its controller for Kubernetes sets the variable (AWS_LBC_QUIC_SERVER_ID)",
            "0xID",
            variable="AWS_LBC_QUIC_SERVER_ID",
        ),
    ] = None
    store: Annotated[
        str | None,
        Argument(
            "hand over by a shared ownership store, sqlite:PATH: a handoff then survives the "
            "death of the process that began it (see docs/ownership-store.md)",
            "URL",
        ),
    ] = None
    retry: Annotated[bool, Argument("validate clients' addresses before the handshake")] = False
    congestion: Annotated[
        Literal["cubic", "bbr", "reno"],
        Argument(
            "congestion control of new connections, unless the program chooses its own "
            "(see docs/congestion.md)"
        ),
    ] = "cubic"
    qlog: Annotated[
        Path | None,
        Argument(
            "write a qlog file for each connection; owners that share DIR continue one file", "DIR"
        ),
    ] = None
    memory: Annotated[
        int,
        Argument(
            "limit of the memory that all connections of a process together hold; as it fills, "
            "windows shrink, and new clients are refused",
            "MB",
        ),
    ] = MEMORY_BUDGET_BYTES >> 20
    takeover: Annotated[
        Path | None, Argument("replace the server with this socket", "SOCKET", one_of=_PREDECESSOR)
    ] = None
    join: Annotated[
        Path | None,
        Argument(
            "share the UDP port of the server with this socket", "SOCKET", one_of=_PREDECESSOR
        ),
    ] = None
    deadline: Annotated[
        float, Argument("with --takeover, or at a reload: then cut connections that did not move")
    ] = 60.0
    cluster: ClusterOptions = ClusterOptions()
    tcp: TcpOptions = TcpOptions()
    limits: RequestLimits = RequestLimits()
    supervision: SupervisionOptions = SupervisionOptions()
    watch: WatchOptions = WatchOptions()
    logs: LogOptions = LogOptions()
    env_file: Annotated[
        Path | None,
        Argument(
            "set environment variables from this file, NAME=VALUE in each line, before the "
            "program is imported; variables that are set already stay"
        ),
    ] = None
    placement: Annotated[
        str,
        Argument(
            "which worker gets a new connection: stay (where the kernel brought it), round-robin, "
            "consistent-hash, least-loaded, path:/PREFIX=WORKER,... by the first request, where "
            "WORKER is a number, or NODE or NODE/WORKER of the cluster, or MODULE:NAME",
            "POLICY",
        ),
    ] = "stay"
    metrics: Annotated[
        tuple[str, _Port] | None,
        Argument(
            "serve figures as OpenMetrics over HTTP (default host: 127.0.0.1)",
            "[HOST:]PORT",
            parse=parse_listener,
        ),
    ] = None

    @property
    def workers(self) -> int | None:
        """The number of workers under a supervisor; None: this process serves by itself."""
        if self.watch.reload and self.supervision.workers is None:
            return 1
        return self.supervision.workers


class CheckOptions(ServeOptions, frozen=True, kw_only=True):
    """Say what `quicbaton serve` would do with the same options, environment and file, and where
    each option comes from. Serves nothing; fails where that would fail.
    """
