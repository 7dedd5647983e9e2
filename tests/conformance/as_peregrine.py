"""`quicbaton serve` under peregrine's name, with the options with which its scripts start a server.

Some of these options are a program's task here (files, WSGI): a program around theirs does it,
`options_as_program`. Options without a counterpart are left out. A check that needs one fails, and
is listed with its reason.
"""

from __future__ import annotations

import argparse
import os
import sys


def command(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of `quicbaton serve`, and the environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    parser.add_argument("--python-path", action="append", default=[])
    parser.add_argument("--static-dir")
    parser.add_argument("--wsgi-threads")
    for without_counterpart in (
        "--log-level",
        "--venv",
        "--hsts",
        "--health-check-path",
        "--quic-port",
    ):
        parser.add_argument(without_counterpart)
    for switch in ("--http3", "--request-id", "--compress", "--compress-static"):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("app")
    options = parser.parse_args(arguments)
    environment = {"CONFORMANCE_PROGRAM": options.app}
    program = "tests.conformance.options_as_program:app"
    if options.static_dir:
        environment["CONFORMANCE_STATIC"] = options.static_dir
    elif options.app.startswith("wsgi_app:"):
        environment["CONFORMANCE_WSGI_THREADS"] = options.wsgi_threads or "1"
    else:
        program = options.app
    # Before what was on the path already, and the first one first.
    path = [*options.python_path, os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    certificate = ["--cert", options.tls_cert, "--key", options.tls_key] if options.tls_cert else []
    place = ["--port", options.port, "--app-dir", options.python_path[0], "--grace", "1"]
    return ["serve", program, *place, *certificate], environment


def main() -> None:
    arguments, environment = command(sys.argv[1:])
    python = [sys.executable, "-m", "quicbaton", *arguments]
    os.execve(sys.executable, python, {**os.environ, **environment})


if __name__ == "__main__":
    main()
