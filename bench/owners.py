"""The processes of a handoff, as a benchmark commands them."""

import asyncio
import datetime
import os
from pathlib import Path

import msgspec

from bench.crowd import Tally
from bench.processes import Program
from bench.servers.handoff_server import Sends, Started
from bench.watcher import Account, Order
from quicbaton.cli.certificate import CertificateFiles, write_self_signed
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing


def make_folder(folder: Path) -> CertificateFiles:
    """Fill a folder with what the processes share: a certificate and the cluster's key ring."""
    folder.chmod(0o700)
    (folder / "ring").write_text(KeyRing(ClusterKey.generate(os.urandom)).encode())
    return write_self_signed(folder, datetime.datetime.now(datetime.UTC))


class Watcher(Program):
    def __init__(self, ca_file: Path) -> None:
        super().__init__("bench.watcher", str(ca_file))

    async def ask(self, order: Order) -> Account:
        """Have the client do something; the event loop goes on meanwhile."""
        self.write_line(msgspec.json.encode(order).decode())
        line = await asyncio.to_thread(self.read_line)
        account = msgspec.json.decode(line, type=Account)
        if account.error:
            raise RuntimeError(f"{order.operation}: {account.error}")
        return account


class Owner(Program):
    """A server process of ours."""

    def __init__(self, folder: Path, files: CertificateFiles, mode: str, other: str = "") -> None:
        self.control = str(folder / f"{os.urandom(4).hex()}.sock")
        options = {
            "mode": mode,
            "control": self.control,
            "ring": folder / "ring",
            "certificate": files.certificate,
            "key": files.key,
            **({"other": other} if other else {}),
        }
        super().__init__(
            "bench.servers.handoff_server",
            *(f"--{option}={value}" for option, value in options.items()),
        )
        self.started = msgspec.json.decode(self.read_line(), type=Started)

    def take_sends(self) -> list[tuple[int, int]]:
        """The datagrams since the last call."""
        self.write_line("sends")
        return msgspec.json.decode(self.read_line(), type=Sends).sends


def tell(crowd: Program, operation: str, count: int = 0) -> Tally:
    """Have a crowd do something; RuntimeError unless all of it succeeded."""
    crowd.write_line(f"{operation} {count}" if count else operation)
    tally = msgspec.json.decode(crowd.read_line(), type=Tally)
    if tally.failed:
        raise RuntimeError(f"{operation}: {tally.failed} failed: {tally.first_failure}")
    return tally
