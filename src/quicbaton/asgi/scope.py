"""What a program is told of a request: the scope of `http` and `websocket` (ASGI HTTP 2.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from quicbaton.transport.state import Address

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

VERSIONS: Final = {"version": "3.0", "spec_version": "2.4"}
_V4_IN_V6: Final = "::ffff:"


def request_scope(
    headers: Iterable[tuple[bytes, bytes]],
    *,
    client: Address,
    server: Address,
    root_path: str,
    state: dict[str, Any],
) -> Scope:
    """Of a request with these fields, of a WebSocket if it asks for one. `client` is the validated
    address, `server` the one that it talks to; `state` is what the lifespan has left, of which the
    program gets a copy."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    cookies: list[bytes] = []
    for name, value in headers:
        if name[:1] == b":":
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name != b"host" or b":authority" not in pseudo:
            fields.append((name, value))
    if cookies:
        # RFC 9114 §4.2.1: clients may cut it, to compress better.
        fields.append((b"cookie", b"; ".join(cookies)))
    if b":authority" in pseudo:
        fields.insert(0, (b"host", pseudo[b":authority"]))
    raw_path, _, query = pseudo.get(b":path", b"").partition(b"?")
    scope: Scope = {
        "type": "http",
        "asgi": dict(VERSIONS),
        "http_version": "3",
        "scheme": "https",
        "path": root_path + unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": fields,
        "client": _pair(client),
        "server": _pair(server),
        "state": dict(state),
    }
    if pseudo.get(b":protocol") == b"websocket":
        scope["type"] = "websocket"
        scope["scheme"] = "wss"
        scope["subprotocols"] = _subprotocols(fields)
        scope["extensions"] = {"websocket.http.response": {}}
        return scope
    scope["method"] = pseudo[b":method"].decode("latin-1")
    scope["extensions"] = {"http.response.early_hint": {}}
    if _takes_trailers(fields):
        scope["extensions"]["http.response.trailers"] = {}
    return scope


def _pair(address: Address) -> tuple[str, int] | None:
    return (str(address[0]).removeprefix(_V4_IN_V6), int(address[1])) if address else None


def _subprotocols(fields: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """RFC 6455 §11.3.4: in as many fields as the client likes."""
    values = [value for name, value in fields if name == b"sec-websocket-protocol"]
    listed = b",".join(values).decode("latin-1").split(",")
    return [name.strip() for name in listed if name.strip()]


def _takes_trailers(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """RFC 9110 §10.1.4: trailers go to those that say so."""
    return any(name == b"te" and b"trailers" in value.lower() for name, value in fields)
