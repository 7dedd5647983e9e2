"""What a program is told of a request: the scope of `http` and `websocket` (ASGI HTTP 2.4), and of
`webtransport` (docs/webtransport.md)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from cryptography import x509

from quicbaton.http3.webtransport import PROTOCOLS as WEBTRANSPORT
from quicbaton.transport.state import Address

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

VERSIONS: Final = {"version": "3.0", "spec_version": "2.4"}
#: The version of the extension that docs/webtransport.md describes.
_WEBTRANSPORT_VERSION: Final = "1.0"
#: RFC 9001 §4.2: no older one may be used, and the handshake speaks no other.
TLS_1_3: Final = 0x0304
_V4_IN_V6: Final = "::ffff:"
#: RFC 9651 §3.3.3: a String, and a List of nothing but Strings.
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_STRINGS: Final = re.compile(rf"{_STRING.pattern}(?:[ \t]*,[ \t]*{_STRING.pattern})*")


class ClientCertificate(NamedTuple):
    """A client's certificate and those that it sent along, as PEM; its subject as RFC 4514 has
    it."""

    chain: tuple[str, ...]
    name: str | None


NO_CLIENT_CERTIFICATE: Final = ClientCertificate((), None)


def client_certificate(chain: Sequence[bytes]) -> ClientCertificate:
    """The client's certificate from what TLS has checked (DER), the client's own first."""
    if not chain:
        return NO_CLIENT_CERTIFICATE
    subject = x509.load_der_x509_certificate(chain[0]).subject
    return ClientCertificate(
        tuple(ssl.DER_cert_to_PEM_cert(one) for one in chain), subject.rfc4514_string()
    )


def request_scope(
    headers: Iterable[tuple[bytes, bytes]],
    *,
    client: Address,
    server: Address,
    root_path: str,
    state: dict[str, Any],
    cipher_suite: int,
    tls_version: int = TLS_1_3,
    http_version: str = "3",
    max_datagram_bytes: int = 0,
    certificate: str | None = None,
    client_certificate: ClientCertificate = NO_CLIENT_CERTIFICATE,
) -> Scope:
    """The scope of a request with these fields; of a WebSocket or a WebTransport session if the
    fields ask for one.

    `client` is the client's validated address, `server` the address that it talks to. `state` is
    the dict that the lifespan has filled; the program gets a copy. `cipher_suite` and `tls_version`
    are TLS's numbers. `certificate` (PEM) is the one that the client was shown, None where that is
    not known, and `client_certificate` the client's own. `max_datagram_bytes` is the size of the
    largest datagram of a session.
    """
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    cookies: list[bytes] = []
    for field in headers:
        name, value = field
        if name[:1] == b":":
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name != b"host" or b":authority" not in pseudo:
            fields.append(field)
    if cookies:
        # RFC 9114 §4.2.1: clients may split the cookies into several fields, to compress better.
        fields.append((b"cookie", b"; ".join(cookies)))
    if b":authority" in pseudo:
        fields.insert(0, (b"host", pseudo[b":authority"]))
    raw_path, _, query = pseudo.get(b":path", b"").partition(b"?")
    scope: Scope = {
        "type": "http",
        "asgi": dict(VERSIONS),
        "http_version": http_version,
        "scheme": "https",
        "path": root_path + _decoded(raw_path),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": fields,
        "client": _pair(client),
        "server": _pair(server),
        "state": dict(state),
    }
    tls = _tls(cipher_suite, tls_version, certificate, client_certificate)
    extensions = scope["extensions"] = {"tls": tls}
    if pseudo.get(b":protocol") == b"websocket":
        scope["type"] = "websocket"
        scope["scheme"] = "wss"
        scope["subprotocols"] = _subprotocols(fields)
        extensions["websocket.http.response"] = {}
        return scope
    scope["method"] = pseudo[b":method"].decode("latin-1")
    if pseudo.get(b":protocol") in WEBTRANSPORT:
        scope["type"] = "webtransport"
        scope["subprotocols"] = _available_protocols(fields)
        scope["webtransport"] = {"spec_version": _WEBTRANSPORT_VERSION}
        extensions["webtransport"] = {"max_datagram_size": max_datagram_bytes}
        return scope
    if http_version == "3":
        # Programs see that a client of this connection may ask for a session.
        extensions["webtransport"] = {}
    extensions["http.response.early_hint"] = {}
    extensions["http.response.pathsend"] = {}
    extensions["http.response.zerocopysend"] = {}
    if _takes_trailers(fields):
        extensions["http.response.trailers"] = {}
    return scope


def _decoded(raw_path: bytes) -> str:
    """A path without its percent-encoding."""
    plain = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return plain.decode("utf-8", "replace")


def _tls(
    cipher_suite: int,
    version: int,
    certificate: str | None,
    client: ClientCertificate,
) -> dict[str, Any]:
    """The scope's TLS extension (ASGI TLS 0.2). A client whose certificate is bad never gets as far
    as a request. The certificate that a client of HTTP/3 was shown is no part of its connection's
    state, and the present process may have another: it is left out then."""
    return {
        "server_cert": certificate,
        "client_cert_chain": list(client.chain),
        "client_cert_name": client.name,
        "client_cert_error": None,
        "tls_version": version,
        "cipher_suite": cipher_suite,
    }


def _pair(address: Address) -> tuple[str, int] | None:
    return (str(address[0]).removeprefix(_V4_IN_V6), int(address[1])) if address else None


def _subprotocols(fields: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The WebSocket subprotocols that the client offers, in one field or several (RFC 6455
    §11.3.4)."""
    values = [value for name, value in fields if name == b"sec-websocket-protocol"]
    listed = b",".join(values).decode("latin-1").split(",")
    return [name.strip() for name in listed if name.strip()]


def quote(text: str) -> bytes:
    """The text as a String of a structured field (RFC 9651 §3.3.3)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return b'"%s"' % escaped.encode("ascii")


def _available_protocols(fields: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The protocols that a WebTransport client offers (WebTransport over HTTP/3, "Application
    Protocol Negotiation"). A malformed list counts as none."""
    values = [value for name, value in fields if name == b"wt-available-protocols"]
    text = b", ".join(values).decode("latin-1").strip()
    if not _STRINGS.fullmatch(text):
        return []
    return [re.sub(r"\\(.)", r"\1", name) for name in _STRING.findall(text)]


def _takes_trailers(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the client takes trailers, which it says in TE (RFC 9110 §10.1.4)."""
    return any(name == b"te" and b"trailers" in value.lower() for name, value in fields)
