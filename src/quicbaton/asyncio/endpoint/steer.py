"""Tells the kernel which socket of a port gets a datagram, where the kernel can steer."""

from __future__ import annotations

import socket

from quicbaton.asyncio.endpoint.udp import attach_steering
from quicbaton.routing.quic_lb import IdConfigs, IdLayout
from quicbaton.routing.steering import pack_program, steering_program


def steer(sock: socket.socket, ids: IdLayout | IdConfigs, sockets: int) -> bool:
    """Steer by worker number among `sockets` sockets. False where the kernel cannot: then it picks
    by address, and processes toss the datagrams of others."""
    program = steering_program(ids, sockets)
    try:
        attach_steering(sock, pack_program(program), len(program))
    except OSError:
        return False
    return True
