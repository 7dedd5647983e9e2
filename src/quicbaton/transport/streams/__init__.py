"""Streams, flow control and the post-handshake CRYPTO stream."""
