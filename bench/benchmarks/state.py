"""An idle HTTP/3 connection as a value: its size, and the cost of a move beside a handshake.

Real clients (libcurl, aioquic, qh3) connect over the loopback to a server in this process and make
one request each. When nothing has moved for a second, their connections are frozen and sealed,
everything included: transport, HTTP/3 and the application's state. The size published is the
largest; a table has the size of each part of the state.

Times are medians of the thread's CPU over repetitions of the very steps of a handoff:

* snapshot: export of application and HTTP/3, freeze, encoding; seal: header, HKDF, AES-GCM;
  open: the same backwards, digest and decoding; resume: the transport's objects, HTTP/3, protocol
  and routes. The connection is that of the client with the largest state;
* handshake, by turns with the moves: CPU of a server process for full handshakes that aioquic's
  client begins, aioquic conducts and our transport takes over; the certificate is an EC P-256 one.

Memory is the growth of a server process, per connection. Each has made a request when it opened,
and then all are silent for longer than `limits.DOZE_AFTER_S`. Measured again after a request of
each, all at once: the process keeps what they took together, for the next time.
"""

import argparse
import asyncio
import datetime
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import CLOCK_THREAD_CPUTIME_ID, clock_gettime_ns, monotonic
from typing import Any

import msgspec
from aioquic.asyncio import connect

from bench import qh3_client
from bench.benchmark import Benchmark
from bench.crowd import BODY_BYTES, Http3Client, configuration
from bench.owners import Owner, Watcher, make_folder, tell
from bench.processes import Program
from bench.servers.handoff_server import Content, Memory, Protocol, server_configuration
from bench.watcher import Order
from demo import style
from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.asyncio.server import make_endpoint
from quicbaton.baton.seal import BatonFields, open_baton, seal
from quicbaton.baton.snapshot import Snapshot, decode_snapshot, encode_snapshot
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.http3 import export_state, restore
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.limits import DOZE_AFTER_S
from quicbaton.service.host import boot_id
from quicbaton.transport.connection import Connection
from quicbaton.transport.state import ConnectionState

#: Names as long as they are in an installation.
SOURCE = "/run/quicbaton/worker-1.sock"
AUDIENCE = "/run/quicbaton/worker-2.sock"

_HOST = boot_id()
_QUIET_S = 1.0
_TRIES = 50
_HANDSHAKES = 50
_MOVES = 100
_STEPS = ("snapshot_us", "seal_us", "open_us", "resume_us")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument(
        "--blocks",
        type=int,
        default=0,
        help=f"of {_HANDSHAKES} handshakes and {_MOVES} moves each (40; quick: 5)",
    )


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    return asyncio.run(_run(options, step))


async def _run(
    options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_folder(folder)
        ring = KeyRing(ClusterKey.generate(os.urandom))
        endpoint = make_endpoint(
            open_udp("127.0.0.1", 0),
            ring=ring,
            configuration=server_configuration(files),
            create_protocol=Protocol,
        )
        Protocol.content = Content()
        endpoint.start()
        step(0, 1, "idle connections")
        payloads = await _idle_connections(endpoint, files)
        sealed = {name: len(_seal(payload, ring)) for name, payload in payloads.items()}
        largest = max(sealed, key=lambda name: sealed[name])
        handshakes, moves = _by_turns(
            endpoint, ring, payloads[largest], (folder, files), options, step
        )
        endpoint.close()
        counts = (100, 400) if options.quick else (1_000, 10_000)
        step(0, 1, f"memory of {counts[-1]:,} connections")
        memory_bytes, after_bytes = await asyncio.to_thread(_memory, folder, files, counts)
        handshake_us = statistics.median(handshakes)
        columns = map(statistics.median, zip(*moves, strict=True))
        steps_us = dict(zip(_STEPS, columns, strict=True))
        step(1, 1, "done")
    return {
        "sealed_bytes_idle": sealed[largest],
        **{name: round(value, 1) for name, value in steps_us.items()},
        "handshake_cpu_us": round(handshake_us, 1),
        "move_per_handshake": round(sum(steps_us.values()) / handshake_us, 4),
        "memory_bytes_per_idle_connection": memory_bytes,
        "memory_bytes_per_connection_after_a_burst": after_bytes,
        "sealed_bytes_by_client": sealed,
        "payload_bytes_by_client": {name: len(payload) for name, payload in payloads.items()},
        "bytes_by_part": {name: _parts(payload) for name, payload in payloads.items()},
        "method": {
            "moves": len(moves),
            "handshakes": len(handshakes) * _HANDSHAKES,
        },
    }


# --- size -------------------------------------------------------------------------------------


async def _idle_connections(endpoint: Endpoint, files: CertificateFiles) -> dict[str, bytes]:
    """Snapshots of one idle connection of every client."""
    port = int(endpoint.udp.address[1])
    payloads: dict[str, bytes] = {}
    async with AsyncExitStack() as stack:
        watcher = stack.enter_context(Watcher(files.certificate))
        for _ in range(_TRIES):
            # curl reads its sockets only while it transfers, so whether the last packet is
            # acknowledged is a matter of luck; of a connection that waits for it, ask again.
            await watcher.ask(Order("hold", port, BODY_BYTES))
            await asyncio.sleep(_QUIET_S / 10)
            if not any(s.connection.buffered_bytes() for s in endpoint.sessions.values()):
                break
        payloads["libcurl"] = await _snapshot_when_idle(endpoint)
        aioquic = await stack.enter_async_context(
            connect("127.0.0.1", port, configuration=configuration(), create_protocol=Http3Client)
        )
        await aioquic.get()  # type: ignore[attr-defined]
        payloads["aioquic"] = await _snapshot_when_idle(endpoint)
        await stack.enter_async_context(qh3_client.connected(port, BODY_BYTES))
        payloads["qh3"] = await _snapshot_when_idle(endpoint)
    return payloads


async def _snapshot_when_idle(endpoint: Endpoint) -> bytes:
    """Freeze the only connection there is; its client is left alone."""
    (session,) = endpoint.sessions.values()
    await asyncio.sleep(_QUIET_S)
    payload = _snapshot(session)
    session.detach()
    endpoint.forget(session)
    return payload


def _snapshot(session: Session) -> bytes:
    """What `quicbaton.service.moving.outgoing` does between a freeze and a seal."""
    protocol = session.protocol
    application = protocol.export_state()
    http3 = None if protocol._http is None else export_state(protocol._http)
    now = monotonic()
    return encode_snapshot(
        Snapshot(
            connection=session.connection.freeze(now),
            http3=http3,
            application=application,
            frozen_at_us=round(now * 1e6),
            host=_HOST,
            precopied=None,
            relayed=[],
        )
    )


def _seal(payload: bytes, ring: KeyRing) -> bytes:
    name = decode_snapshot(payload).connection.name
    return seal(payload, BatonFields(name, 1, SOURCE, AUDIENCE), ring, os.urandom, _NOW)


_NOW = datetime.datetime.now(datetime.UTC).timestamp()


def _parts(payload: bytes) -> dict[str, int]:
    """Encoded bytes of every part of the state, the largest first."""
    snapshot = decode_snapshot(payload)
    encode = msgspec.msgpack.encode
    parts = {
        field: len(encode(getattr(snapshot.connection, field)))
        for field in ConnectionState.__struct_fields__
    }
    small = {name: size for name, size in parts.items() if size < 10}
    table = {name: size for name, size in parts.items() if size >= 10}
    table[f"{len(small)} others"] = sum(small.values())
    table["http3"] = len(encode(snapshot.http3))
    table["application, host, time"] = len(payload) - sum(table.values())
    return dict(sorted(table.items(), key=lambda item: -item[1]))


# --- time -------------------------------------------------------------------------------------


def _handshakes_us(owner: Owner, crowd: Program) -> float:
    """CPU of the server process for a full handshake: mean over a batch."""
    before_s = owner.cpu_s()
    tell(crowd, "shake", _HANDSHAKES)
    return (owner.cpu_s() - before_s) / _HANDSHAKES * 1e6


def _by_turns(
    endpoint: Endpoint,
    ring: KeyRing,
    payload: bytes,
    setting: tuple[Path, CertificateFiles],
    options: argparse.Namespace,
    step: Callable[[int, int, str], None],
) -> tuple[list[float], list[tuple[float, ...]]]:
    """Handshakes and moves in turns, so that what else the machine does falls upon both."""
    handshakes: list[float] = []
    moves: list[tuple[float, ...]] = []
    folder, files = setting
    blocks = options.blocks or (5 if options.quick else 40)
    # In between the collector looks at what the measurements left, and at nothing else.
    gc.collect()
    gc.freeze()
    gc.disable()
    with (
        Owner(folder, files, "first") as owner,
        Program("bench.crowd", str(owner.started.port)) as crowd,
    ):
        tell(crowd, "open", _HANDSHAKES)
        for block in range(blocks):
            step(1 + block, blocks + 1, "handshakes and moves")
            handshakes.append(_handshakes_us(owner, crowd))
            for _ in range(_MOVES):
                moves.append(_move_us(payload, endpoint, ring))
                gc.collect()
        tell(crowd, "ask")
    gc.enable()
    return handshakes, moves


# --- memory -----------------------------------------------------------------------------------


def _memory(
    folder: Path, files: CertificateFiles, counts: tuple[int, ...]
) -> tuple[dict[int, int], int]:
    """Bytes per connection by the number of connections; and those of the most after a burst."""
    with (
        Owner(folder, files, "first") as owner,
        Program("bench.crowd", str(owner.started.port), "quicbaton") as crowd,
    ):
        tell(crowd, "open", _HANDSHAKES)
        before = _quiet_bytes(owner)
        figures: dict[int, int] = {}
        opened = 0
        for count in counts:
            tell(crowd, "open", count - opened)
            opened = count
            figures[count] = round((_quiet_bytes(owner) - before) / count)
        tell(crowd, "ask")
        return figures, round((_quiet_bytes(owner) - before) / opened)


def _quiet_bytes(owner: Owner) -> int:
    time.sleep(2 * DOZE_AFTER_S + _QUIET_S)
    return _resident_bytes(owner)


def _resident_bytes(owner: Owner) -> int:
    owner.write_line("memory")
    return msgspec.json.decode(owner.read_line(), type=Memory).resident_bytes


def _move_us(payload: bytes, endpoint: Endpoint, ring: KeyRing) -> tuple[float, ...]:
    """CPU of every step of one move, in the order of `_STEPS`."""
    # Every time from the same bytes: an owner that sends nothing leaves only its mark.
    snapshot = decode_snapshot(payload)
    begun = _cpu_ns()
    session = _resume(snapshot, endpoint)
    resumed = _cpu_ns()
    taken = _snapshot(session)
    snapped = _cpu_ns()
    fields = BatonFields(session.connection.name, 1, SOURCE, AUDIENCE)
    sealed = seal(taken, fields, ring, os.urandom, _NOW)
    closed = _cpu_ns()
    decode_snapshot(open_baton(sealed, ring, _NOW, AUDIENCE).payload)
    opened = _cpu_ns()
    session.detach()
    endpoint.forget(session)
    spent_ns = (snapped - resumed, closed - snapped, opened - closed, resumed - begun)
    return tuple(one / 1000 for one in spent_ns)


def _cpu_ns() -> int:
    return clock_gettime_ns(CLOCK_THREAD_CPUTIME_ID)


def _resume(snapshot: Snapshot, endpoint: Endpoint) -> Session:
    """What `quicbaton.service.moving.outgoing` does once the connection is its own."""
    now = monotonic()
    connection = Connection.resume(
        snapshot.connection,
        now=now,
        transit_us=max(0, round(now * 1e6) - snapshot.frozen_at_us),
        issuer=endpoint.ids,
        entropy=os.urandom,
        configuration=endpoint.configuration,
    )
    protocol = endpoint.create_protocol(connection)
    if snapshot.http3 is not None:
        protocol._http = restore(connection, snapshot.http3)
    protocol.import_state(snapshot.application)
    return endpoint.adopt(connection, protocol)


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw the parts of a move beside the handshake that they replace."""
    colours = style.PARTS
    left = 0.0
    for name, colour in zip(_STEPS, colours, strict=True):
        label = f"{name.removesuffix('_us')} {figures[name]:.0f} µs"
        axes.barh(1, figures[name], left=left, label=label, color=colour)
        left += figures[name]
    axes.barh(0, figures["handshake_cpu_us"], color=style.BASELINE)
    axes.set_yticks([1, 0], ["move", "handshake"])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("CPU, µs")
    axes.set_title(
        f"An idle connection: {figures['sealed_bytes_idle']} bytes sealed; moving it takes "
        f"1/{1 / figures['move_per_handshake']:.0f} of a server's full handshake",
        loc="left",
        fontsize=10,
    )
    axes.legend(frameon=False, loc="lower right")


BENCHMARK = Benchmark(
    summary="an idle connection: its sealed size, its move's CPU beside a handshake's, its memory",
    configure=configure,
    run=run,
    plot=plot,
)
