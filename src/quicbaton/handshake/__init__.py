"""aioquic until the handshake is confirmed, then our transport.

    quic = QuicConnection(configuration=..., original_destination_connection_id=...)
    prepare(quic, cid, reset_token)        # before its first datagram
    quic.receive_datagram(data, address, now)
    if ready(quic):                        # before the next datagrams_to_send
        promotion = promote(quic, now, local_address=...)

After promotion aioquic's object is dropped, and nothing of it is missed:

* A server discards its Handshake keys when the handshake completes, which for a server is when it
  is confirmed (RFC 9001 §4.9.2). Late Initial and Handshake packets, a client's repeated Finished
  among them, can then be neither read nor answered: they are ignored. The client stops repeating
  them when it gets HANDSHAKE_DONE, which our transport repeats until it is acknowledged.
* A client promotes when the handshake is confirmed (§4.1.2), at which point it too has discarded
  its Handshake keys. Before, it may still have to repeat its Finished, which only aioquic can.
* 0-RTT packets that come late (the client sent them before it had 1-RTT keys) are ignored as well;
  the client sends their contents again in 1-RTT packets. A server may discard the 0-RTT keys at
  the first 1-RTT packet (§4.9.3).

The rest of TLS that a promoted client needs is in `post_handshake`. This package and `http3` are
the only ones that touch aioquic's private attributes; `surface` lists these.
"""

from quicbaton.handshake.certificates import ByName, Certificate, Certificates, names_in
from quicbaton.handshake.client_certificates import ClientCertificates
from quicbaton.handshake.ecn import EcnCounts
from quicbaton.handshake.post_handshake import PostHandshakeTls
from quicbaton.handshake.preparation import prepare, ready
from quicbaton.handshake.promotion import Promotion, dismantle, promote
from quicbaton.handshake.refusal import refuse
from quicbaton.handshake.tickets import SessionTickets

__all__ = [
    "ByName",
    "Certificate",
    "Certificates",
    "ClientCertificates",
    "EcnCounts",
    "PostHandshakeTls",
    "Promotion",
    "SessionTickets",
    "dismantle",
    "names_in",
    "prepare",
    "promote",
    "ready",
    "refuse",
]
