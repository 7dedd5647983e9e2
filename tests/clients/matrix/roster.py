"""The clients, and how each is started."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

CLIENTS = Path(__file__).parents[1]
#: Where `install` puts what is not there: nothing outside this folder is changed but Debian's
#: packages.
CACHE = CLIENTS.parents[1] / ".clients"


class Entry(msgspec.Struct, frozen=True):
    """A client: the library of QUIC below it, its program, and another that it needs."""

    name: str
    engine: str
    command: list[str]
    needs: str = ""

    @property
    def missing(self) -> str:
        """The reason why the client cannot run here; empty if it can."""
        programs = [self.command[0], *([self.needs] if self.needs else [])]
        return ", ".join(name for name in programs if shutil.which(name) is None)


def _python(environment: str, program: str) -> list[str]:
    interpreter = CACHE / environment / "bin" / "python"
    return [str(interpreter), "-W", "ignore", str(CLIENTS / program)]


def _bun(program: str) -> list[str]:
    return [
        str(CACHE / "node_modules/@oven/bun-linux-x64/bin/bun"),
        "--experimental-http3-fetch",
        str(CLIENTS / program),
    ]


def _deno(program: str) -> list[str]:
    deno = str(CACHE / "node_modules/@deno/linux-x64-glibc/deno")
    return [deno, "run", "--unstable-net", "--no-config", "--allow-all", str(CLIENTS / program)]


def _node(program: str) -> list[str]:
    return ["node", str(CLIENTS / program)]


ROSTER = [
    Entry("Chromium", "Google's", _node("with_chromium.mjs"), "chromium"),
    Entry("Firefox", "neqo", _python("python", "with_firefox.py"), "firefox-esr"),
    Entry("libcurl", "ngtcp2", _python("python", "with_libcurl.py")),
    Entry("curl_cffi", "ngtcp2", _python("python", "with_curl_cffi.py")),
    Entry("qh3", "its own, Rust", _python("python", "with_qh3.py")),
    Entry("niquests", "qh3", _python("python", "with_niquests.py")),
    Entry("bun", "lsquic", _bun("with_bun.mjs")),
    Entry("deno", "quinn", _deno("with_deno.mjs")),
    Entry("gtlsclient", "ngtcp2, GnuTLS", _python("python", "with_gtlsclient.py"), "gtlsclient"),
    Entry("aiopquic", "picoquic", _python("python312", "with_aiopquic.py")),
    Entry("aioquic", "its own, Python", _python("python", "with_aioquic.py")),
]
