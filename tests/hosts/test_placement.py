"""New connections that a path rule sends to another node: two hosts behind one virtual address."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from demo.curl import Outcome, Progress
from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.lossy_link import CLEAR
from tests.hosts.network import Host
from tests.hosts.sites import CUT, PORT, SHARED, Site, two_hosts
from tests.processes.harness import until

pytestmark = pytest.mark.process


class Node:
    """`quicbaton serve` on a host, as a node of the cluster; its files say whose they are."""

    def __init__(self, site: Site, name: str) -> None:
        self.name = name
        self.host: Host = site.network.hosts[name]
        self.cluster = site.cluster
        self.process: asyncio.subprocess.Process | None = None

    async def serve(self, certificate: CertificateFiles, *options: str) -> None:
        """Return when it does."""
        files = self.host.folder / "files"
        for folder in (files / "a", files / "b"):
            folder.mkdir(parents=True)
            (folder / "who").write_text(self.name)
        (files / "b" / f"only-{self.name}").write_text(self.name)
        self.process = await self.host.start(
            *(sys.executable, "-m", "quicbaton", "serve", files, "--json"),
            *("--cluster", self.cluster, "--node-name", self.name),
            *("--host", SHARED, "--port", str(PORT)),
            *("--cert", certificate.certificate, "--key", certificate.key, *options),
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if json.loads(line)["event"] == "ready":
                return
        raise AssertionError("it ended before it served: its stderr says why")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """A service in good order: its workers would outlive a supervisor that is killed."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.send_signal(number)
        await self.process.wait()

    async def ask(self, *command: str) -> Any:
        """The answer to a command on this host."""
        process = await self.host.start(
            *(sys.executable, "-m", "quicbaton", *command, "--json"),
            *("--cluster", self.cluster, "--node-name", self.name),
            stdout=subprocess.PIPE,
        )
        text, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(text)


async def fetch(site: Site, certificate: CertificateFiles, path: str) -> Outcome:
    """libcurl at the client's, on a new connection."""
    process = await site.client.start(
        *(sys.executable, "-m", "demo.curl", f"https://{SHARED}:{PORT}{path}"),
        *("--ca", certificate.certificate, "--timeout", "60"),
        stdout=subprocess.PIPE,
    )
    text, _ = await process.communicate()
    outcome = msgspec.json.decode(text.splitlines()[-1], type=Progress | Outcome)
    assert isinstance(outcome, Outcome)
    return outcome


def said(outcome: Outcome, node: str) -> bool:
    return outcome.ok and outcome.sha256 == hashlib.sha256(node.encode()).hexdigest()


@asynccontextmanager
async def two_nodes(
    folder: Path, seed: str, certificate: CertificateFiles, rule: str, *options: str
) -> AsyncIterator[tuple[Site, Node, Node]]:
    """Nodes that serve, `a` with the rule, and the link between them and the client."""
    async with two_hosts(folder, seed, certificate, shared=True) as site:
        a, b = Node(site, "a"), Node(site, "b")
        try:
            await a.serve(certificate, "--placement", f"path:{rule}", *options)
            await b.serve(certificate, *options)
            yield site, a, b
        finally:
            await a.stop()
            await b.stop()


@pytest.mark.parametrize(
    ("rule", "options"),
    [("/b=b/0", ()), ("/b=b", ("--workers", "2"))],
    ids=["process", "service"],
)
async def test_a_path_of_another_node_is_answered_there(
    tmp_path: Path,
    seed: str,
    hosts_certificate: CertificateFiles,
    rule: str,
    options: tuple[str, ...],
) -> None:
    async with two_nodes(tmp_path, seed, hosts_certificate, rule, *options) as (site, a, b):

        async def answers(path: str) -> Outcome:
            return await fetch(site, hosts_certificate, path)

        async def answered_by_b() -> bool:
            return said(await answers("/b/who"), "b")

        async def only_b_answers() -> bool:
            return said(await answers("/b/only-b"), "b")

        # Nobody has told a yet that b is there: that comes within seconds.
        await until(answered_by_b, "b to answer")
        assert said(await answers("/a/who"), "a")
        if not options:
            # A service has other workers, which may not know yet.
            await until(only_b_answers, "b to answer what it alone has")
        counts = {name: await a.ask("ps", name) for name in ("a", "b")}
        # All clients came to a; those that b answered were given away before the answer.
        assert counts["b"]["accepted"] == 0
        assert counts["b"]["resumed"] == counts["a"]["given"] >= 1
        assert counts["a"]["accepted"] > counts["a"]["given"]

        await b.stop(signal.SIGTERM if options else signal.SIGKILL)

        async def answered_by_a() -> bool:
            outcome = await answers("/b/who")
            # Never a refusal: from the first moment on a serves what b does not.
            assert outcome.ok, outcome
            return said(outcome, "a")

        await until(answered_by_a, "a to answer")


async def test_a_node_beyond_a_partition_keeps_no_client_waiting_and_is_found_again(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with two_nodes(tmp_path, seed, hosts_certificate, "/b=b") as (site, _, _):

        async def answered_by_b() -> bool:
            return said(await fetch(site, hosts_certificate, "/b/who"), "b")

        await until(answered_by_b, "b to answer")
        await site.between_servers(CUT)
        # The first may be offered to b in vain; then it is not thought of.
        for _ in range(3):
            assert said(await fetch(site, hosts_certificate, "/b/who"), "a")
        await site.between_servers(CLEAR)
        await until(answered_by_b, "b to answer again")
