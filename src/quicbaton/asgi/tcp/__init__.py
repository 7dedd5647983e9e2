"""The same ASGI programs over TCP: HTTP/1.1 by h11 and HTTP/2 by h2, both over TLS.

A browser asks by TCP first, and learns by Alt-Svc (RFC 7838) that there is HTTP/3. A program sees
the same by both ways, since the same exchanges run it: they use a `connection` of this package as
they use `asgi.protocol` for QUIC.

connection      what both versions of HTTP share: the transport, its buffer, its end
http1, http2    their requests and responses
server          the listening socket, TLS, and how it stops

A TCP connection cannot move. A process that is to end accepts no more, and its connections end
between requests (docs/decisions/0003-tcp.md).
"""

from quicbaton.asgi.tcp.server import TcpServer, TlsIdentity, tls_by_name, tls_identity

__all__ = ["TcpServer", "TlsIdentity", "tls_by_name", "tls_identity"]
