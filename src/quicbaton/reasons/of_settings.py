"""Reasons for invalid settings of a command line, a file or a program: options, keys, connection
IDs."""

from __future__ import annotations

from typing import Final

from quicbaton.reasons.explanation import Explanations, caller, nobody, peer

_OPTIONS: Final[Explanations] = {
    "application": caller("The named program cannot be imported, made or set up."),
    "certificate_dates": caller(
        "The certificate has expired, or is not valid yet.", "Renew it, or set the clock."
    ),
    "certificate_key": caller(
        "No client could shake hands with this certificate and key.",
        "See that the key is the certificate's: the two files are renewed one after the other.",
    ),
    "configuration": caller("A setting is missing, contradictory or out of range."),
    "failpoint": caller("The variable for tests that stop processes names no failpoint."),
    "file_exists": caller("The file exists already.", "Name a new one."),
    "handoff_waits": caller("A handoff's timeouts are not positive, or not in order."),
    "lifespan": caller("The program's startup failed.", "Mend it; its own message is in the log."),
    "log_config": caller("The file of `--log-config` cannot be used."),
    "metrics_port": caller(
        "Metrics cannot be served at that port.", "Choose another `--metrics PORT`."
    ),
    "no_dotenv": caller("`--env-file` needs python-dotenv.", "`pip install 'quicbaton[standard]'`"),
    "no_pidfd": nobody(
        "`--workers` needs pidfds, which Linux has from 5.3 on.", "Serve with one process."
    ),
    "no_prometheus": caller(
        "Metrics need prometheus-client.", "`pip install 'quicbaton[metrics]'`"
    ),
    "no_reuse_port": caller(
        "The UDP socket that was passed in is bound without SO_REUSEPORT.",
        "Write `ReusePort=yes` into the socket unit of a service that runs as root; a service with "
        "`User=` has to open the port itself. Or use `--workers 1`.",
    ),
    "no_watchfiles": caller("`--reload` needs watchfiles.", "`pip install 'quicbaton[standard]'`"),
    "not_a_timeline": caller(
        "The file has no timeline of a handoff, or none that can be read.",
        "Name a file that `handoff --json` was printed into, or a qlog file.",
    ),
    "not_private": caller(
        "Other users may read or write a file or folder that is as powerful as the keys.",
        "`chmod 600 FILE` or `chmod 700 FOLDER`; make new keys if somebody may have read them.",
    ),
    "placement": caller("The placement policy cannot be made, or names no worker."),
    "port_taken": caller(
        "Another process has the UDP port.",
        "`--takeover SOCKET` replaces it, `--join SOCKET` shares it, or choose another `--port`.",
    ),
    "socket_user": caller(
        "The UDP socket that was passed in is another user's, and the kernel lets only one user's "
        "sockets share a port.",
        "Let the service open the port itself, without a socket unit, or use `--workers 1`.",
    ),
    "tcp_port": caller(
        "Another program listens at the TCP port.", "Choose another, or `--no-tcp`."
    ),
    "unhealthy": caller("The program's `health()` raised.", "Mend the cause that it names."),
    "needs_restart": caller(
        "An option has changed that the supervisor has for itself.",
        "`quicbaton upgrade`; for another address or port, start another service.",
    ),
    "usage": caller("The command line is not understood.", "Read the command's `--help`."),
}

_KEYS: Final[Explanations] = {
    "empty_id": caller("A connection ID of no bytes has no reset token."),
    "key_id": caller("A key's id has another length."),
    "key_in_use": caller(
        "The key that is to be dropped still seals.",
        "Let another key seal first, on every host: `quicbaton keys rotate --use`.",
    ),
    "key_pickle": caller("A cluster key cannot be pickled or copied.", "Use `encode()`."),
    "key_secret": caller(
        "A key's secret has another length.", "Make one with `ClusterKey.generate`."
    ),
    "key_text": caller("A line of the key file is no key.", "Copy the line again."),
    "ring_duplicate": caller("Two keys of the ring have one id."),
    "ring_empty": caller("The key file has no key."),
    "ring_size": caller(
        "The ring has more keys than it may.", "Drop those whose batons and tokens have expired."
    ),
    "unknown_key": peer(
        "The ring has no such key, or several.", "Compare `quicbaton keys show` on both sides."
    ),
}

_CONNECTION_IDS: Final[Explanations] = {
    "id_configs": caller("Two forms of connection IDs have one number.", "Give each its own."),
    "id_key": caller("A key for connection IDs has another length."),
    "id_layout": caller("A part of a form of connection IDs has too few or too many bytes."),
    "ids_text": caller("A form of connection IDs is not in the syntax of `--ids`."),
    "nonces_exhausted": nobody(
        "All connection IDs of a form were issued.",
        "Rotate the cluster key, or use a longer nonce.",
    ),
    "place": caller("A node or worker number does not fit into the connection IDs."),
}

OF_SETTINGS: Final[Explanations] = {**_OPTIONS, **_KEYS, **_CONNECTION_IDS}
