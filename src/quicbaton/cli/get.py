"""`quicbaton get`: download one file over HTTP/3, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import IO, Any, Final
from urllib.parse import SplitResult, quote, urlsplit

from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.configuration import load_certificate
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import GetOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import CallerError, ConfigurationError, PeerError
from quicbaton.handshake.client_certificates import NO_CLIENT_CERTIFICATE
from quicbaton.http3 import H3Connection
from quicbaton.reasons import Reason
from quicbaton.transport.connection import Connection

#: A Content-Length with more digits is no size of a file.
_MAX_LENGTH_DIGITS: Final = 19

OnProgress = Callable[[int, int | None], None]


def add_parser(commands: Any) -> None:
    add_command(commands, "get", GetOptions, run, "download a file over HTTP/3")


def run(options: GetOptions, reporter: Reporter) -> int:
    url = _parse(options.url)
    name = options.output or Path(Path(url.path).name or "index.html")
    if name.is_dir():
        raise ConfigurationError(f"{name} is a folder: name a file with -o")
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=url.hostname
    )
    if options.insecure:
        configuration.verify_mode = ssl.CERT_NONE
    elif options.ca is not None:
        if not options.ca.is_file():
            raise ConfigurationError(f"{options.ca} is not a file: --ca takes a PEM certificate")
        configuration.load_verify_locations(cafile=str(options.ca))
    _load_own(configuration, options)
    started = monotonic()
    try:
        with _partial_file(name) as (file, keep):
            with _progress(reporter) as on_progress:
                download = _download(url, configuration, file, options.timeout, on_progress)
                size = asyncio.run(download)
            keep()
    except _StatusError as error:
        reporter.error(error.code, str(error), status=error.status)
        return 1
    seconds = monotonic() - started
    reporter.event(
        "downloaded",
        f"{name}: {size:,} bytes in {seconds:.2f} s ({size / seconds / 1e6:.1f} MB/s)",
        path=str(name),
        bytes=size,
        seconds=round(seconds, 6),
    )
    return 0


def _load_own(configuration: QuicConfiguration, options: GetOptions) -> None:
    """Load the certificate for a server that asks for one."""
    if options.cert is None and options.key is None:
        return
    if options.cert is None or options.key is None:
        raise ConfigurationError("--cert and --key go together: give both or neither")
    load_certificate(configuration, CertificateFiles(options.cert, options.key))


class _StatusError(PeerError):
    """The server's answer is not the file."""

    code = Reason.HTTP_STATUS

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status


class _Download(QuicConnectionProtocol):
    """Asks for one target and writes the body into a file."""

    def __init__(
        self,
        quic: Connection,
        stream_handler: Any = None,
        *,
        url: SplitResult,
        file: IO[bytes],
        on_progress: OnProgress,
    ) -> None:
        super().__init__(quic, stream_handler)
        self._url = url
        self._file = file
        self._on_progress = on_progress
        self._stream_id = -1
        self._expected: int | None = None
        self._received = 0
        #: Set to the size, or to the error.
        self.done: asyncio.Future[int] = self._loop.create_future()

    def request(self) -> None:
        self._http = H3Connection(self._quic)
        self._stream_id = self._quic.get_next_available_stream_id()
        query = f"?{self._url.query}" if self._url.query else ""
        # Characters that a URL may not contain become percent-encoded; encoded ones stay.
        target = quote((self._url.path or "/") + query, safe="/?%:@!$&'()*+,;=~")
        self._http.send_headers(
            self._stream_id,
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", self._url.netloc.rpartition("@")[2].encode("idna")),
                (b":path", target.encode()),
                (b"user-agent", b"quicbaton"),
            ],
            end_stream=True,
        )
        self.transmit()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionTerminated):
            reason = event.reason_phrase or f"error {event.error_code:#x}"
            self._fail(PeerError(f"the connection ended: {reason}", code=Reason.CLOSED))
        elif isinstance(event, events.StreamReset) and event.stream_id == self._stream_id:
            text = f"the server broke off: error {event.error_code:#x}"
            self._fail(PeerError(text, code=Reason.RESET))
        if self._http is None or self.done.done():
            return
        for http_event in self._http.handle_event(event):
            if getattr(http_event, "stream_id", None) != self._stream_id:
                continue
            if isinstance(http_event, HeadersReceived):
                self._on_headers(dict(http_event.headers))
            elif isinstance(http_event, DataReceived):
                self._on_data(http_event.data)
            if not self.done.done() and getattr(http_event, "stream_ended", False):
                self._finish()

    def _on_headers(self, headers: dict[bytes, bytes]) -> None:
        status = headers.get(b":status")
        if status is None or status.startswith(b"1"):
            return  # trailers, or an interim answer
        if status != b"200":
            self._fail(_StatusError(int(status)))
            return
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS:
            self._expected = int(length)

    def _on_data(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            self._file.write(data)
        except OSError as error:
            self.done.set_exception(error)
            return
        self._received += len(data)
        self._on_progress(self._received, self._expected)

    def _finish(self) -> None:
        if self._expected is not None and self._received != self._expected:
            text = f"the body has {self._received} bytes of the {self._expected} announced"
            self._fail(PeerError(text, code=Reason.TRUNCATED))
        else:
            self.done.set_result(self._received)

    def _fail(self, error: PeerError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def _download(
    url: SplitResult,
    configuration: QuicConfiguration,
    file: IO[bytes],
    timeout_s: float,
    on_progress: OnProgress,
) -> int:
    """Try the host's addresses until one answers. Returns the body's size."""
    create_protocol = partial(_Download, url=url, file=file, on_progress=on_progress)
    port = url.port or 443
    failure = ""
    for address in await _addresses(str(url.hostname), port):
        connecting = connect(
            address, port, configuration=configuration, create_protocol=create_protocol
        )
        try:
            async with asyncio.timeout(timeout_s):
                protocol = await connecting.__aenter__()
        except TimeoutError:
            failure = f"nobody answered at {address} port {port} within {timeout_s:g} s"
            continue
        except ConnectionError as error:
            failure = f"no connection with {address} port {port}: {error}{_hint(str(error))}"
            continue
        try:
            assert isinstance(protocol, _Download)
            protocol.request()
            return await protocol.done
        finally:
            await connecting.__aexit__(None, None, None)
    raise PeerError(failure, code=Reason.UNREACHABLE)


async def _addresses(host: str, port: int) -> list[str]:
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise CallerError(
            f"cannot find {host}: {error.strerror}", code=Reason.UNKNOWN_HOST
        ) from error
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _hint(reason: str) -> str:
    if reason == NO_CLIENT_CERTIFICATE:
        return ". Show it yours with --cert FILE --key FILE"
    if "certificate" in reason or "signed" in reason:
        return ". Name the certificate to trust with --ca FILE"
    return ""


def _parse(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError as error:
        raise ConfigurationError(f"{text} is not a URL: {error}") from error
    if url.scheme != "https" or not url.hostname:
        raise ConfigurationError(f"{text}: HTTP/3 needs https://host[:port]/path")
    return url


@contextlib.contextmanager
def _partial_file(name: Path) -> Any:
    """A file beside `name`. `keep()` puts it in its place; otherwise it is removed."""
    file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, before it is renamed
        dir=name.absolute().parent, prefix=f".{name.name}.", suffix=".part", delete=False
    )
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True
        file.flush()
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(file.fileno(), 0o666 & ~mask)

    try:
        yield file, keep
    finally:
        file.close()
        if kept:
            Path(file.name).replace(name)
        else:
            Path(file.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(reporter: Reporter) -> Any:
    """A bar on a terminal. Elsewhere nothing, since the last line has the result."""
    if reporter.as_json or not sys.stderr.isatty():
        yield lambda _received, _expected: None
        return
    columns = (
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda received, expected: bar.update(task, completed=received, total=expected)
