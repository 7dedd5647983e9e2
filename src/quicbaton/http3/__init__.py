"""HTTP/3 that can move: aioquic's, without the QPACK dynamic table, and its state as data."""

from quicbaton.http3.connection import H3Connection
from quicbaton.http3.state import Http3State, Http3Stream
from quicbaton.http3.transfer import export_state, restore

__all__ = ["H3Connection", "Http3State", "Http3Stream", "export_state", "restore"]
