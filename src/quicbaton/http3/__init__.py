"""HTTP/3 as data (RFC 9114): a sans-IO connection over plain structs, so that it can move."""

from quicbaton.http3.connection import H3Connection
from quicbaton.http3.requests import first_path
from quicbaton.http3.state import Http3State, Http3Stream
from quicbaton.http3.transfer import export_state, restore

__all__ = ["H3Connection", "Http3State", "Http3Stream", "export_state", "first_path", "restore"]
