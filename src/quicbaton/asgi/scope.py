"""What a program is told of a request: the scope of one `http` connection (ASGI HTTP 2.4)."""

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


def http_scope(
    headers: Iterable[tuple[bytes, bytes]],
    *,
    client: Address,
    server: Address,
    root_path: str,
    state: dict[str, Any],
) -> Scope:
    """Of a request with these fields. `client` is the validated address, `server` the one that it
    talks to; `state` is what the lifespan has left, of which the program gets a copy."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name[:1] == b":":
            pseudo[name] = value
        elif name != b"host" or b":authority" not in pseudo:
            fields.append((name, value))
    if b":authority" in pseudo:
        fields.insert(0, (b"host", pseudo[b":authority"]))
    raw_path, _, query = pseudo.get(b":path", b"").partition(b"?")
    scope: Scope = {
        "type": "http",
        "asgi": dict(VERSIONS),
        "http_version": "3",
        "method": pseudo[b":method"].decode("latin-1"),
        "scheme": pseudo.get(b":scheme", b"https").decode("latin-1"),
        "path": root_path + unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": fields,
        "client": _pair(client),
        "server": _pair(server),
        "state": dict(state),
        "extensions": {"http.response.early_hint": {}},
    }
    if _takes_trailers(fields):
        scope["extensions"]["http.response.trailers"] = {}
    return scope


def _pair(address: Address) -> tuple[str, int] | None:
    return (str(address[0]).removeprefix(_V4_IN_V6), int(address[1])) if address else None


def _takes_trailers(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """RFC 9110 §10.1.4: trailers go to those that say so."""
    return any(name == b"te" and b"trailers" in value.lower() for name, value in fields)
