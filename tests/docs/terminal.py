"""A reader at a terminal: types the commands of a page, in a home with something to serve.

What stands for the reader's own (SOCKET, CONNECTION, 4433, /srv/www) is replaced by what is there.
`serve` is given a free port and --json, and stays; before the next one, which has the same port in
the text, it is ended, unless the two go together.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import signal
import socket
import subprocess
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from quicbaton.cli.certificate import LOCAL_NAMES, write_self_signed
from tests.cli.command_line import GUARD_S, Download, Finished, wait_for
from tests.supervisor.service_home import FILE_BYTES, RATE, Service, ServiceHome

_FILES: Final = {
    "main.py": """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello"})
""",
    "mysite.py": "from quicbaton.asyncio import QuicConnectionProtocol as Protocol\n",
    "chat.py": "from quicbaton.asyncio import QuicConnectionProtocol as Chat\n",
    "forms": "encrypted\nplaintext\n",
}
#: A server with one of these belongs to those that run.
_TOGETHER: Final = {"--join", "--takeover", "--node-name"}
_PLACEHOLDERS: Final = {"/srv/www": "./files", "DIR": "./files", "FOLDER": "./files"}
#: Ends what a command says that may be asked again in a moment.
_TRY_AGAIN: Final = "try again when it has\n"


class Terminal:
    """`run` types one command, which must succeed; `write` saves a file of the page's."""

    def __init__(self, home: ServiceHome) -> None:
        self._home = home
        self._servers: list[Service] = []
        self._nodes: dict[str, Service] = {}
        self._downloads: list[Download] = []
        self._known = ""
        #: Ports of the text, and those that are free here.
        self._ports: dict[str, int] = {}
        for name, text in _FILES.items():
            self.write(name, text)
        for name in ("templates", "tls"):
            (home.path / name).mkdir()
        write_self_signed(home.path / "tls", datetime.now(UTC), LOCAL_NAMES)
        home.write("big.iso", FILE_BYTES)

    def run(self, command: str) -> None:
        words = shlex.split(command)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self._home.environment[name] = value
        elif words[:2] == ["quicbaton", "serve"]:
            self._serve(words[2:])
        elif words[0] == "quicbaton":
            self._quicbaton(words[1:])
        else:
            self._other([self._ported(word) for word in words])

    def run_in_vain(self, command: str) -> str:
        """A command that must fail; what it said."""
        done = self._home.run(*shlex.split(command)[1:])
        assert done.returncode == 1
        return done.stderr

    def write(self, name: str, text: str) -> None:
        (self._home.path / name).write_text(text)

    # --- helpers ----------------------------------------------------------------------------------

    def _serve(self, words: list[str]) -> None:
        arguments = [self._filled(word, words, index) for index, word in enumerate(words)]
        if not _TOGETHER & set(words):
            self._end([server for server in self._servers if server not in self._nodes.values()])
        if not {"--join", "--takeover"} & set(words):
            if "--port" in words:
                arguments[words.index("--port") + 1] = str(self._free("4433"))
            else:
                port = self._free("4433") if "--node-name" not in words else 0
                arguments += ["--port", str(port)]
        if "--node-name" not in words:
            self._servers.append(self._start(*arguments))
            return
        # The reader does the same on each host.
        self._end(list(self._nodes.values()))
        place = words.index("--node-name") + 1
        text = (self._home.path / "cluster" / "cluster.toml").read_text()
        for name in tomllib.loads(text)["nodes"]:
            server = self._start(*arguments[:place], name, *arguments[place + 1 :])
            self._servers.append(server)
            self._nodes[name] = server

    def _start(self, *arguments: str) -> Service:
        named = {"--cluster", "--node-name"} & set(arguments)
        kept = self._home.environment
        if not named:
            # On a host that belongs to no cluster.
            self._home.environment = {**kept, "QUICBATON_CLUSTER": ""}
        process = self._home.start("quicbaton", "serve", *arguments, "--json")
        self._home.environment = kept
        return Service(self._home, process)

    def _quicbaton(self, words: list[str]) -> None:
        redirected, mode, name = _redirection(words)
        arguments = [self._filled(word, words, i) for i, word in enumerate(redirected)]
        if arguments[0] == "top":
            arguments += ["--count", "1"]  # the reader ends it by Ctrl-C
        globbed = self._globbed(arguments)
        done = wait_for(
            lambda: self._home.run(*globbed), lambda told: not told.stderr.endswith(_TRY_AGAIN)
        )
        _check(arguments, done)
        if name:
            with (self._home.path / name).open(mode) as file:
                file.write(done.stdout)

    def _other(self, words: list[str]) -> None:
        done = subprocess.run(
            words,
            cwd=self._home.path,
            env=self._home.environment,
            capture_output=True,
            text=True,
            timeout=GUARD_S,
            check=False,
        )
        _check(words, Finished(done.returncode, done.stdout, done.stderr))

    def _filled(self, word: str, words: Sequence[str], index: int) -> str:
        """What the reader types for it."""
        option = words[index - 1] if index else ""
        own = self._own(word)
        if own:
            return own
        if option == "--qlog":
            (self._home.path / word).mkdir(exist_ok=True)
            return word
        if word.startswith("sqlite:"):
            return f"sqlite:{self._home.path}/owners"
        return self._ported(_PLACEHOLDERS.get(word, word))

    def _own(self, word: str) -> str:
        """What stands for something that only the reader knows; empty for another word."""
        if word in ("SOCKET", "SOCKET2"):
            return str(self._pair()[0 if word == "SOCKET" else 1].control)
        if word in ("CONNECTION", "CONN"):
            return self._connection()
        if word in ("ID", "OLD"):
            # The key that was added, and that sealed before.
            return str(self._home.json("keys", "show", "cluster")["retired"][-1])
        return str(self._home.ca) if word == "CERT" else ""

    def _pair(self) -> list[Service]:
        """SOCKET and SOCKET2: servers that are no nodes, where there are such."""
        nodes = self._nodes.values()
        return [server for server in self._servers if server not in nodes] or self._servers

    def _connection(self) -> str:
        """An open connection, the same as long as it is; a new one is the first server's."""
        living = [server for server in self._servers if server.process.poll() is None]
        if any(self._known in self._connections(server) for server in living):
            return self._known
        first = self._pair()[0]
        while not self._connections(first):
            self._downloads.append(self._home.download(first, "big.iso", RATE))
            self._downloads[-1].wait_for_bytes(1)
        self._known = self._connections(first)[0]
        return self._known

    def _connections(self, server: Service) -> list[str]:
        listed = self._home.json("ps", server.control)["connections"]
        return [info["connection"] for info in listed if info["state"] == "open"]

    def _ported(self, word: str) -> str:
        """With a port that is free here, and an address that we have."""
        word = re.sub(
            r"\b10\.0\.0\.(\d+)\b", lambda found: f"127.0.0.1:{self._free(found[0])}", word
        )
        return re.sub(r"\b(4433|9100|9464)\b", lambda found: str(self._free(found[0])), word)

    def _free(self, name: str) -> int:
        if name not in self._ports:
            self._ports[name] = free_port()
        return self._ports[name]

    def _globbed(self, arguments: Sequence[str]) -> list[str]:
        found = []
        for argument in arguments:
            paths = sorted(glob.glob(argument, root_dir=self._home.path))
            found += paths if "*" in argument else [argument]
        return found

    def _end(self, servers: list[Service]) -> None:
        """Kill them, their workers and all clients."""
        for download in self._downloads:
            download.process.kill()
            download.process.wait()
        self._downloads = []
        pids = {pid: _parent(pid) for pid in self._home.worker_pids()}
        for server in servers:
            server.process.kill()
            server.process.wait()
        ended = {server.process.pid for server in servers}
        for pid, parent in pids.items():
            if parent in ended:
                with contextlib.suppress(ProcessLookupError):  # without its supervisor it ends, too
                    os.kill(pid, signal.SIGKILL)
        self._servers = [server for server in self._servers if server not in servers]
        self._nodes = {name: one for name, one in self._nodes.items() if one not in servers}


def free_port() -> int:
    """A port that is free now, for UDP and TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as stream,
        ):
            datagrams.bind(("::", 0))
            port: int = datagrams.getsockname()[1]
            with contextlib.suppress(OSError):
                stream.bind(("::", port))
                return port


def _parent(pid: int) -> int:
    """The process that started it; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _redirection(words: list[str]) -> tuple[list[str], str, str]:
    """The words without a redirection at their end, how its file is opened, and its name."""
    for sign, mode in ((">", "w"), (">>", "a")):
        if sign in words:
            place = words.index(sign)
            return words[:place], mode, words[place + 1]
    return words, "", ""


def _check(command: Sequence[str | Path], done: Finished) -> None:
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
