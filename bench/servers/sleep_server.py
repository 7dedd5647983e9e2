"""A process whose connections sleep, with a record of the time that they took to wake.

It serves as `handoff_server` does: GET /BYTES. Lines on stdin are requests:

    rest          wait until every connection has fallen asleep
    clone COUNT   COUNT more, each the state of a real one with keys and IDs of its own; each is
                  a live connection with its protocol first, and falls asleep as any other
    report        how many sleep, the process's memory, how long waking took since the last report
    close         close every connection, and report the time for that
"""

import argparse
import asyncio
import gc
import os
import sys
from pathlib import Path
from time import perf_counter, thread_time_ns
from typing import Any

import msgspec

from bench.servers.handoff_server import Content, Protocol, Started, server_configuration
from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.program import import_program
from quicbaton.asyncio.endpoint.udp import Datagram, open_udp
from quicbaton.baton.sleep import Nap, wake
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.host import tune_collector
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat

#: Short: the benchmark has no time to be silent.
SLEEP_AFTER_S = 0.05
_LOOK_S = 0.005
_CLONES_AT_ONCE = 500


class Report(msgspec.Struct):
    """The answer to a line."""

    asleep: int
    resident_bytes: int
    #: Microseconds from the moment when the socket's batch is handed out: until the connection is
    #: rebuilt, and until the answer to its first datagram is with the kernel.
    wake_us: list[float]
    wake_cpu_us: list[float]
    answer_us: list[float]
    payload_bytes: int
    spent_s: float
    collector_pause_ms: float


class Stopwatch:
    """Notes waking around the endpoint's methods; the product knows nothing of it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.wake_us: list[float] = []
        self.wake_cpu_us: list[float] = []
        self.answer_us: list[float] = []
        wake_up, deliver = endpoint.asleep.wake, endpoint.deliver
        woken = 0

        def wake_and_note(name: bytes) -> Any:
            nonlocal woken
            was_asleep = name in endpoint.asleep
            begun_cpu_ns = thread_time_ns()
            begun = perf_counter()
            session = wake_up(name)
            if was_asleep:
                self.wake_us.append((perf_counter() - begun) * 1e6)
                self.wake_cpu_us.append((thread_time_ns() - begun_cpu_ns) / 1000)
                woken += 1
            return session

        def deliver_and_note(batch: list[Datagram], *, forwarded: bool = False) -> None:
            # One datagram at a time: what the others of a batch cost is not theirs.
            for datagram in batch:
                before = woken
                begun = perf_counter()
                deliver([datagram], forwarded=forwarded)
                if woken > before:
                    self.answer_us.append((perf_counter() - begun) * 1e6)

        endpoint.asleep.wake = wake_and_note  # type: ignore[method-assign]
        endpoint.deliver = deliver_and_note  # type: ignore[method-assign]


async def rest(endpoint: Endpoint) -> None:
    """Wait until every connection sleeps."""
    while endpoint.sessions or endpoint.handshakes:
        endpoint.asleep.look()
        await asyncio.sleep(_LOOK_S)


async def clone(endpoint: Endpoint, count: int) -> None:
    """Add sleepers, each by way of a live connection."""
    model = next(iter(endpoint.asleep))
    for number in range(count):
        nap = endpoint.asleep.peek(model)
        assert nap is not None
        _renew(nap, endpoint)
        connection = wake(
            nap, issuer=endpoint.ids, entropy=os.urandom, configuration=endpoint.configuration
        )
        protocol = endpoint.create_protocol(connection)
        import_program(protocol, connection, nap.http3, nap.application, [])
        endpoint.asleep.put_to_sleep(endpoint.adopt(connection, protocol))
        if number % _CLONES_AT_ONCE == 0:
            await asyncio.sleep(0)


def _renew(nap: Nap, endpoint: Endpoint) -> None:
    """Give a copy of a state what no two connections share."""
    state = nap.connection
    for local in state.ids.local:
        local.cid, local.token = endpoint.ids.issue()
    state.name = state.ids.local[0].cid
    state.original_id = os.urandom(len(state.original_id))
    for peer in state.ids.peer:
        peer.cid, peer.token = os.urandom(len(peer.cid)), os.urandom(len(peer.token))
    protection = state.protection
    protection.send_hp = os.urandom(len(protection.send_hp))
    protection.recv_hp = os.urandom(len(protection.recv_hp))
    for keys in (protection.send, protection.recv):
        keys.secret = os.urandom(len(keys.secret))


def resident_bytes() -> int:
    """The process's memory, by the kernel's count."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not say how much memory a process uses")


def report(endpoint: Endpoint, watch: Stopwatch, spent_s: float) -> Report:
    begun = perf_counter()
    gc.collect()
    pause_s = perf_counter() - begun
    payload = next((endpoint.asleep[name].payload for name in endpoint.asleep), b"")
    answer = Report(
        asleep=len(endpoint.asleep),
        resident_bytes=resident_bytes(),
        wake_us=watch.wake_us[:],
        wake_cpu_us=watch.wake_cpu_us[:],
        answer_us=watch.answer_us[:],
        payload_bytes=len(payload),
        spent_s=spent_s,
        collector_pause_ms=pause_s * 1000,
    )
    for samples in (watch.wake_us, watch.wake_cpu_us, watch.answer_us):
        samples.clear()
    return answer


async def main(options: argparse.Namespace) -> None:
    configuration = server_configuration(CertificateFiles(options.certificate, options.key))
    Protocol.content = Content()
    node = Node(
        Seat(open_udp("127.0.0.1", 0)),
        options.control,
        ring=KeyRing.parse(options.ring.read_text()),
        configuration=configuration,
        create_protocol=Protocol,
        sleep_after_s=SLEEP_AFTER_S,
    )
    endpoint = node.endpoint
    watch = Stopwatch(endpoint)
    node.start()
    tune_collector()
    started = Started(int(endpoint.udp.address[1]), os.getpid())
    print(msgspec.json.encode(started).decode(), flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        operation, *arguments = line.split()
        begun = perf_counter()
        if operation == "rest":
            await rest(endpoint)
        elif operation == "clone":
            await clone(endpoint, int(arguments[0]))
        elif operation == "close":
            async for session in endpoint.asleep.wake_all():
                session.protocol.close()
            node.close()
        spent_s = perf_counter() - begun
        print(msgspec.json.encode(report(endpoint, watch, spent_s)).decode(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("control", "ring", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asyncio.run(main(parser.parse_args()))
