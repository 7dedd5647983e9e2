"""Streams whose requests still run at the process that their connection has left.

    old owner                                        new owner
    protocol ◄─► StandIn ◄══ Stream… messages ══► NewOwner ◄─► Connection ◄─► client
      (for the relayed streams only)                 └ everything else ─► its own protocol

    old owner ══ Stream… messages ══► Hop ══ Stream… messages ══► the newest owner

Whatever was written before the handoff has moved with the transport; what the coroutine writes
later, and what the client sends meanwhile, is passed on as bytes below HTTP/3, whose state of these
streams stays with the old protocol. `quicbaton.handoff.stream_relay` has the windows. Of a
WebTransport session later streams and datagrams are passed on, too. When the connection moves on,
the process that it leaves becomes a `Hop`.
"""
