"""gtlsclient, the example client of ngtcp2 and nghttp3 with GnuTLS: a process for each command."""

import asyncio
import re
import subprocess
import tempfile
from pathlib import Path

from conversation import Answer, Client, converse

_PATIENCE_S = 30
_FIELD = re.compile(r"^http: stream (0x[0-9a-f]+) \[(:?[^:]+): (.*)\]$")
_OPTIONS = ("--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close", "--timeout=30s")


class Gtlsclient(Client):
    name = subprocess.run(
        ["dpkg-query", "-f", "ngtcp2-client/${Version}", "-W", "ngtcp2-client"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    can = ("one command", "move")

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        # It does not check certificates.
        options = ["--change-local-addr=500ms"] if moving else []
        return await self._run(urls, options)

    async def post(self, url: str, body: bytes) -> Answer:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(body)
            return (await self._run([url], ["--http-method=POST", f"--data={file.name}"]))[0]

    async def _run(self, urls: list[str], options: list[str]) -> list[Answer]:
        with tempfile.TemporaryDirectory() as folder:
            process = await asyncio.create_subprocess_exec(
                *("gtlsclient", *_OPTIONS, *options, f"--download={folder}"),
                *(self.host, str(self.port), *urls),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
            answers = [Answer() for _ in urls]
            for line in output.decode(errors="replace").splitlines():
                if (field := _FIELD.match(line)) and field[2] in (":status", "x-pid"):
                    # Client-initiated bidirectional streams, in the order of the URLs.
                    answers[int(field[1], 16) // 4].take_field(field[2], field[3])
            for url, answer in zip(urls, answers, strict=True):
                # It names a file by the last part of the path.
                file = Path(folder, url.partition("?")[0].rpartition("/")[2])
                if file.exists():
                    answer.take(file.read_bytes())
                if process.returncode:
                    answer.error = f"exit status {process.returncode}: {output[-1000:]!r}"
            return answers


if __name__ == "__main__":
    converse(Gtlsclient)
