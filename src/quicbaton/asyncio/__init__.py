"""quicbaton on asyncio: aioquic's `serve`, `connect` and protocol class, on our transport."""

from quicbaton.asyncio.client import connect
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.asyncio.server import QuicServer, serve
from quicbaton.transport.events import StreamWritable

__all__ = ["QuicConnectionProtocol", "QuicServer", "StreamWritable", "connect", "serve"]
