"""The libcurl client that other tests and the demo rely on, against aioquic's own server."""

import asyncio
import datetime
import fcntl
import hashlib
import random
import signal
import socket
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from demo.curl import Outcome, Progress, download, longest_pause_ns
from quicbaton.cli.certificate import CertificateFiles, write_self_signed

BODY = random.Random(7).randbytes(300_000)


class _BodyServer(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self._http.send_headers(http_event.stream_id, [(b":status", b"200")])
                self._http.send_data(http_event.stream_id, BODY, end_stream=True)


async def _fetch(
    certificate: CertificateFiles,
    ca_file: Path,
    host: str,
    options: Sequence[str] = (),
    meanwhile: Callable[[asyncio.subprocess.Process], Awaitable[None]] | None = None,
) -> tuple[int, list[Progress | Outcome]]:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate.certificate, certificate.key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=_BodyServer)
    port = server._transport.get_extra_info("sockname")[1]
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo.curl", f"https://{host}:{port}/"),
        *("--ca", str(ca_file), "--timeout", "60", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    if meanwhile is not None:
        await meanwhile(client)
    output, _ = await client.communicate()
    server.close()
    status = await client.wait()
    return status, [
        msgspec.json.decode(line, type=Progress | Outcome) for line in output.splitlines()
    ]


def _outcome(lines: list[Progress | Outcome]) -> Outcome:
    outcome = lines[-1]
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.process
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_body_arrives_whole_over_one_verified_http3_connection(
    certificate: CertificateFiles, host: str
) -> None:
    status, lines = await _fetch(certificate, certificate.certificate, host)
    outcome = _outcome(lines)
    assert status == 0
    assert outcome.ok
    assert outcome.http3
    assert outcome.connections == 1
    assert outcome.sha256 == hashlib.sha256(BODY).hexdigest()
    assert outcome.samples[-1][1] == outcome.received_bytes == len(BODY)
    assert outcome.started_ns < outcome.connected_ns < outcome.first_byte_ns <= outcome.ended_ns


@pytest.mark.process
async def test_unknown_certificate_is_refused(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    stranger = write_self_signed(tmp_path, datetime.datetime.now(datetime.UTC))
    status, lines = await _fetch(certificate, stranger.certificate, "localhost")
    outcome = _outcome(lines)
    assert status == 1
    assert "curl error 60" in outcome.error  # CURLE_PEER_FAILED_VERIFICATION
    assert outcome.received_bytes == 0


def test_silence_ends_a_download(certificate: CertificateFiles) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{nobody.getsockname()[1]}/"
        outcome = download(url, ca_file=certificate.certificate, timeout_s=0.1)
    assert outcome.error.startswith("curl error 28")  # CURLE_OPERATION_TIMEDOUT
    assert not outcome.ok


@pytest.mark.process
async def test_rate_limit_holds_and_progress_is_reported(certificate: CertificateFiles) -> None:
    rate = 150_000
    arguments = ["--rate", str(rate)]
    _, lines = await _fetch(certificate, certificate.certificate, "localhost", arguments)
    outcome = _outcome(lines)
    assert outcome.ok
    # The body less its last piece cannot have arrived faster than the limit says.
    early_bytes = outcome.samples[-2][1]
    assert outcome.samples[-1][0] - outcome.first_byte_ns >= early_bytes * 1e9 / rate * 0.99
    reported = [line.received_bytes for line in lines if isinstance(line, Progress)]
    assert len(reported) > 1
    assert reported == sorted(reported)


@pytest.mark.process
async def test_what_it_holds_back_comes_when_it_is_told(certificate: CertificateFiles) -> None:
    held = []

    async def tell(client: asyncio.subprocess.Process) -> None:
        assert client.stdout is not None
        while not held or held[-1] < len(BODY) // 2:
            line = msgspec.json.decode(await client.stdout.readline(), type=Progress | Outcome)
            held.append(line.received_bytes)
        await asyncio.sleep(0.2)
        client.send_signal(signal.SIGUSR1)

    arguments = ["--hold-at", str(len(BODY) // 2)]
    _, lines = await _fetch(certificate, certificate.certificate, "localhost", arguments, tell)
    assert held[-1] < len(BODY)
    assert _outcome(lines).sha256 == hashlib.sha256(BODY).hexdigest()


#: Ends at once, with an outcome longer than a pipe holds.
_LONG_OUTCOME = """
from demo import curl

samples = [(n, n) for n in range(20_000)]
outcome = curl.Outcome("", 200, True, 1, "", 1, 0, 0, 0, 0, samples)
curl.download = lambda *_arguments, **_options: outcome
curl.main(["https://localhost/", "--ca", "file"])
"""


@pytest.mark.process
def test_an_outcome_is_whole_though_it_is_told_to_hurry_while_nobody_reads() -> None:
    with subprocess.Popen([sys.executable, "-c", _LONG_OUTCOME], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        waiting = array("i", [0])
        while waiting[0] < 1 << 16:
            assert client.poll() is None, "it ended"
            time.sleep(0.01)
            fcntl.ioctl(client.stdout, termios.FIONREAD, waiting)
        client.send_signal(signal.SIGUSR1)
        outcome = msgspec.json.decode(client.stdout.read(), type=Progress | Outcome)
    assert _outcome([outcome]).ok


def test_longest_pause_counts_only_pauses_that_touch_the_window() -> None:
    samples = [(0, 1), (500, 2), (1000, 3), (1010, 4), (1090, 5), (5000, 6)]
    assert longest_pause_ns(samples, around_ns=1050, within_ns=20) == 80
    assert longest_pause_ns(samples, around_ns=1050, within_ns=60) == 3910
    assert longest_pause_ns(samples, around_ns=600, within_ns=50) == 500


def test_longest_pause_is_unknown_outside_of_the_samples() -> None:
    assert longest_pause_ns([(0, 1), (10, 2)], around_ns=500, within_ns=100) is None
    assert longest_pause_ns([], around_ns=0, within_ns=100) is None
