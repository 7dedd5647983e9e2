"""A plugin for pytest: Starlette's `TestClient` asks over HTTP/3, by libcurl, and the bridge serves
its program. So Starlette's and FastAPI's own tests check responses that have passed through all of
it.

As a proxy would, the server tells the program the scheme, host and client that the test has made
up. Programs' exceptions are raised in the test, as `TestClient` does it. WebSockets stay in the
process: their test client has messages of ASGI on both ends, and no frames.
"""

from __future__ import annotations

import asyncio
import datetime
import io
import tempfile
import threading
from collections.abc import Awaitable, Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pycurl
from aioquic.quic.configuration import QuicConfiguration
from starlette import testclient

from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.asyncio import QuicServer, serve
from quicbaton.cli.certificate import write_self_signed
from quicbaton.cli.configuration import quic_configuration

#: The one that Starlette has found.
httpx: Any = testclient.httpx
_REQUEST_S = 20
_ADDED_BY_CURL = (b"Accept", b"User-Agent", b"Content-Type", b"Expect")
_LOCALHOST = "127.0.0.1"


class _Loop:
    """An event loop in a thread, for all servers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_REQUEST_S)  # type: ignore[arg-type]

    def call(self, function: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(function)


@cache
def _loop() -> _Loop:
    return _Loop()


@cache
def _configuration() -> QuicConfiguration:
    folder = Path(tempfile.mkdtemp(prefix="quicbaton-conformance-"))
    return quic_configuration(write_self_signed(folder, datetime.datetime.now(datetime.UTC)))


class _Served:
    """One program, and what its exception was."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._scheme = "http"
        self._client: Any = None
        self._server: Any = None
        self._root_path = ""
        self.error: BaseException | None = None
        #: The program has returned, with all that it does in the background.
        self.over = threading.Event()
        self.lifespan = Lifespan(self, "the test's program")
        self.server: QuicServer = _loop().run(self._serve())

    async def _serve(self) -> QuicServer:
        create = partial(AsgiProtocol, application=self, lifespan=self.lifespan)
        return await serve(_LOCALHOST, 0, configuration=_configuration(), create_protocol=create)

    def tell(self, url: Any, client: Any, root_path: str) -> None:
        """Choose the form of the next request."""
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        self._scheme, self._server = url.scheme, [url.raw_host.decode("ascii"), port]
        self._client, self._root_path = client, root_path
        self.error = None
        self.over.clear()

    def close(self) -> None:
        _loop().call(self.server.close)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["scheme"] = self._scheme
        scope["client"] = self._client
        scope["server"] = self._server
        scope["root_path"] = self._root_path
        try:
            await self._application(scope, receive, send)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.over.set()


class ServedTransport(httpx.BaseTransport):
    """In place of Starlette's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._served: _Served | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme in ("ws", "wss"):
            response: httpx.Response = self._inner.handle_request(request)
            return response
        if self._served is None:
            self._served = _Served(self._inner.app)
        served = self._served
        served.tell(request.url, list(self._inner.client), self._inner.root_path)
        served.lifespan.state.clear()
        served.lifespan.state.update(self._inner.app_state)
        try:
            response = _ask(served.server.port, request)
        finally:
            served.over.wait(_REQUEST_S)
            if served.error is not None and self._inner.raise_server_exceptions:
                raise served.error
        return response

    def close(self) -> None:
        if self._served is not None:
            self._served.close()
            self._served = None
        self._inner.close()


def _ask(port: int, request: httpx.Request) -> httpx.Response:
    body, lines = io.BytesIO(), io.BytesIO()
    content = request.read()
    curl = pycurl.Curl()
    path = request.url.raw_path.decode("ascii")
    options: dict[int, Any] = {
        pycurl.URL: f"https://localhost:{port}{path}",
        pycurl.RESOLVE: [f"localhost:{port}:{_LOCALHOST}"],
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_3ONLY,
        pycurl.SSL_VERIFYPEER: 0,
        pycurl.SSL_VERIFYHOST: 0,
        pycurl.PATH_AS_IS: 1,
        pycurl.NOSIGNAL: 1,
        pycurl.TIMEOUT: _REQUEST_S,
        pycurl.CUSTOMREQUEST: request.method,
        pycurl.WRITEDATA: body,
        pycurl.HEADERFUNCTION: lines.write,
    }
    fields = [(name, value) for name, value in request.headers.raw if name.lower() != b"connection"]
    if content:
        options[pycurl.POSTFIELDS] = content
    if request.method == "HEAD":
        options[pycurl.NOBODY] = 1
    # "Name:" leaves out what curl would add, "Name;" is an empty field.
    lines_out = [name + (b": " + value if value else b";") for name, value in fields]
    names = {name.lower() for name, _ in fields}
    lines_out += [name + b":" for name in _ADDED_BY_CURL if name.lower() not in names]
    options[pycurl.HTTPHEADER] = lines_out
    for option, value in options.items():
        curl.setopt(option, value)
    try:
        curl.perform()
        status = curl.getinfo(pycurl.RESPONSE_CODE)
    except pycurl.error as error:
        raise httpx.RemoteProtocolError(str(error), request=request) from error
    finally:
        curl.close()
    *_, head = lines.getvalue().strip().split(b"\r\n\r\n")
    headers = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]
    # What the server adds the tests do not know of.
    headers = [field for field in headers if field[0] != b"date"]
    return httpx.Response(
        status,
        headers=[(field[0], field[1] if len(field) > 1 else b"") for field in headers],
        stream=httpx.ByteStream(body.getvalue()),
        request=request,
    )


class ServedTestClient(testclient.TestClient):
    """The same with a server in between."""

    __test__ = False

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._transport = ServedTransport(self._transport)


testclient.TestClient = ServedTestClient  # type: ignore[misc]
