"""Streams whose requests still run at the process that their connection has left.

    old owner                                        new owner
    protocol ◄─► StandIn ◄══ Stream… messages ══► NewOwner ◄─► Connection ◄─► client
      (for the relayed streams only)                 └ everything else ─► its own protocol

    old owner ══ Stream… messages ══► Hop ══ Stream… messages ══► the newest owner

Bytes that were written before the handoff have moved with the transport. Later bytes of the
coroutine and of the client are passed on below HTTP/3, whose state of these streams stays with the
old protocol. `quicbaton.handoff.stream_relay` has the windows. Later streams and datagrams of a
WebTransport session are passed on, too. When the connection moves on, the process that it leaves
becomes a `Hop`.
"""
