"""quicbaton: a live QUIC connection as a value."""
