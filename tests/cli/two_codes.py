"""A home whose servers run two codes that must understand each other: two forms, two releases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final
from unittest import mock

from tests.cli.command_line import Home, Server, check_whole, wait_for

_FILE_BYTES: Final = 8_000_000
_RATE: Final = 400_000

#: `serve` of a home, or `serve_other`.
Serve = Callable[..., Server]


class TwoCodes(Home):
    """Servers by `serve`, and of the other code, which `PYTHONPATH` names, by `serve_other`."""

    def __init__(self, path: Path, other: Path) -> None:
        super().__init__(path)
        self._other = other

    @property
    def environment_of_other(self) -> dict[str, str]:
        return {**self.environment, "PYTHONPATH": str(self._other)}

    def serve_other(self, *arguments: str | Path) -> Server:
        """A server of the other code that is ready."""
        with mock.patch.object(self, "environment", self.environment_of_other):
            return self.serve(*arguments)

    def take_over_in_turn(self, serve: Serve, successors: Iterable[Serve]) -> None:
        """A download is whole though each of these servers takes over from the one before."""
        content = self.write("file.bin", _FILE_BYTES)
        server = serve()
        client = self.download(server, "file.bin", _RATE)
        client.wait_for_bytes(1)
        for serve_next in successors:
            successor = serve_next("--takeover", server.control)
            assert server.process.wait(60) == 0
            server = successor
            client.wait_for_bytes(1)
        check_whole(client, content)

    def hand_to_and_fro(self, serve_first: Serve, serve_second: Serve) -> None:
        """A download is whole though its connection goes there, back, and there again."""
        content = self.write("file.bin", _FILE_BYTES)
        first = serve_first()
        client = self.download(first, "file.bin", _RATE)
        client.wait_for_bytes(1)
        second = serve_second("--join", first.control)
        name = self.connection(first)["connection"]
        for source, destination in ((first, second), (second, first), (first, second)):
            wait_for(
                lambda server=source: self.connection(server),
                lambda connection: not connection["cutover_pending"],
            )
            self.json("handoff", source.control, name, "--to", destination.control)
            client.wait_for_bytes(1)
        check_whole(client, content)
