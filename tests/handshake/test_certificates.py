"""The certificate that a client is shown is the one of the moment at which its hello comes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration

from quicbaton.cli.certificate import write_self_signed
from quicbaton.handshake import Certificate, Certificates, prepare
from tests.handshake.aioquic_pair import SERVER_CID, TOKEN, Pair


def meet(certificates: Certificates) -> Pair:
    """A client that has said nothing yet, and its server."""
    pair = Pair(prepared=False)
    prepare(pair.server, SERVER_CID, TOKEN, certificates=certificates)
    return pair


def made(folder: Path) -> Certificate:
    folder.mkdir()
    files = write_self_signed(folder, datetime.now(UTC))
    configuration = QuicConfiguration(is_client=False)
    configuration.load_cert_chain(files.certificate, files.key)
    return Certificate.of(configuration)


def test_a_certificate_that_was_replaced_is_shown_from_the_next_hello_on(tmp_path: Path) -> None:
    first, second = made(tmp_path / "first"), made(tmp_path / "second")
    certificates = Certificates(first)
    before, between, after = (meet(certificates) for _ in range(3))
    before.until_client_ready()
    assert before.client.tls._peer_certificate == first.leaf
    # The hello is there, the handshake is under way.
    between.connect()
    between.to_server(between.from_client())
    certificates.certificate = second
    between.until(lambda: between.client._handshake_complete)
    assert between.client.tls._peer_certificate == first.leaf
    after.until_client_ready()
    assert after.client.tls._peer_certificate == second.leaf
