"""A node of the cluster that lies about connections that it does not own.

It has a certificate and the cluster key, and could read every baton. It must not be able to move or
end others' connections by the messages of handoffs in which it had no part.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quicbaton.baton import FORMAT_VERSION
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.handoff import CODEC, Hello, encode
from quicbaton.handoff.messages import (
    PROTOCOL_VERSION,
    Abort,
    Accept,
    Baton,
    ClaimRequest,
    Closed,
    Committed,
    Cutover,
    CutoverAck,
    Load,
    Message,
    Moved,
    MovedAck,
    Offer,
    Precopied,
    PrecopyEnd,
    ProxiedTrain,
    Ready,
    Refuse,
    Resumed,
    Stray,
    StreamBytes,
    StreamCredit,
    StreamReset,
    StreamsCut,
    StreamStop,
    Taken,
    Toss,
)
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.directory import connect_node
from tests.processes.attack_stage import NodeScene, two_nodes
from tests.processes.attacker import Attacker, short
from tests.processes.harness import until

pytestmark = pytest.mark.process


async def _say_on_a_link(scene: NodeScene, node: str, *words: bytes) -> list[Message]:
    """Open a link to a node as `c`, say that, and what came back until it hung up, or had answered
    a question that every process answers."""
    channel = await connect_node(scene.cluster, node)
    reader = CODEC.reader()
    heard: list[Message] = []
    channel.on_data = lambda data: heard.extend(reader.feed(data))
    channel.start()
    hello = Hello(PROTOCOL_VERSION, "c/0", 1, (3,))
    asked = PrecopyEnd(os.urandom(16))
    channel.write(c.encode(c.OpenLink()) + encode(hello) + b"".join(words) + encode(asked))
    answered = Precopied(asked.precopy_id, False)
    await until(lambda: channel.closed or answered in heard, "an answer, or the end")
    channel.abort()
    return [message for message in heard if not isinstance(message, (Hello, Load))]


async def test_a_node_that_is_not_the_owner_moves_and_closes_nothing(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """It knows the connection's name and IDs, but not the handoff's id."""
    async with two_nodes(tmp_path, certificate) as scene:
        await scene.hand_over()
        before = await scene.counts()
        owner, source, name = await scene.owner()
        which = (bytes.fromhex(name), os.urandom(16))
        cid = scene.tap.ids()[-1]
        remote, local = ("127.0.0.1", 9), ("127.0.0.1", scene.port)
        with Attacker(scene.port) as victim:
            host, port = victim.socks[0].getsockname()
            lies = [
                Moved(*which, "c/0"),
                MovedAck(*which),
                Cutover(*which),
                CutoverAck(*which),
                Closed(*which),
                Abort(*which, "no", "no"),
                Ready(*which, bytes(16), bytes(32)),
                ClaimRequest(*which, bytes(16), bytes(32)),
                Committed(*which, 99, bytes(16), bytes(32), 1),
                Taken(*which, 99),
                Resumed(*which, 1),
                Refuse(*which, "no", "no"),
                Baton(*which, os.urandom(1000)),
                ProxiedTrain(*which, b"proxied", 7, (host, port), local, 0),
                StreamBytes(*which, 0, b"forged", True),
                StreamReset(*which, 0, 1),
                StreamStop(*which, 0, 1),
                StreamCredit(*which, 0, 1 << 40),
                StreamsCut(*which, "cut"),
                Stray(*which, short(cid), remote, local, 0, 0),
                Toss(short(cid), remote, local, 0),
                *(Load(f"c/{number}", number, 9) for number in range(3000)),
            ]
            for node in (owner, source):
                for lie in lies:
                    if not isinstance(lie, Load):
                        answers = await _say_on_a_link(scene, node, encode(lie))
                        assert not any(isinstance(one, (Committed, Baton)) for one in answers)
                await _say_on_a_link(scene, node, b"".join(encode(lie) for lie in lies))
            # Nobody is made to send for somebody else.
            assert victim.listen() == []
        assert await scene.counts() == before
        assert (await scene.owner())[0] == owner


async def test_a_node_offers_in_its_own_name_only(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    """The source's name is called later: another host must not choose a path of this one."""
    async with two_nodes(tmp_path, certificate) as scene:

        def offer_as(source: str) -> bytes:
            handoff_id, rest = os.urandom(16), (("127.0.0.1", scene.port), True, b"")
            return encode(
                Offer(b"connection", handoff_id, 1, 1000, FORMAT_VERSION, source, "a/0", *rest)
            )

        for source in (str(tmp_path / "some.sock"), "a/0", "b/0", "c"):
            assert await _say_on_a_link(scene, "a", offer_as(source)) == []
        answer, _ = await _say_on_a_link(scene, "a", offer_as("c/0"))
        assert isinstance(answer, Accept)
        moved = Moved(b"connection", os.urandom(16), str(tmp_path / "some.sock"))
        assert await _say_on_a_link(scene, "a", encode(moved)) == []
