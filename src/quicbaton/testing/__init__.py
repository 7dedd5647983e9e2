"""The public test kit: two ends, a bad network, one clock, and moves at any moment.

Nothing here touches a socket, a clock or the operating system's randomness (aioquic's handshake
does draw from it), so tests run as fast as they compute, and a seed replays a run.

    from quicbaton.testing import Conditions, Pair, move

    pair = Pair(Conditions(delay_s=0.02, loss=0.05), seed=1)
    pair.connect()
    stream_id = pair.client.connection.get_next_available_stream_id()
    pair.client.connection.send_stream_data(stream_id, b"hello", end_stream=True)
    pair.run(seconds=0.01)
    server = move(pair.server)  # pair.server is now this one
    pair.run(seconds=1)
    print(server.take_events())

To test a program, give its class as `EndOptions(create=...)`: it is made at promotion and again
after each move, with `export_state` and `import_state` in between.

All datagrams of both ends go through a `NonceChecker` (`pair.nonces`), which raises when a packet
number is used twice with a key.
"""

from quicbaton.testing.certificate import SERVER_NAME, self_signed
from quicbaton.testing.cluster import Cluster, Unpacked
from quicbaton.testing.end import Application, CreateApplication, End, Kind
from quicbaton.testing.entropy import Entropy
from quicbaton.testing.errors import NonceReuseError, SpinningError, StuckError
from quicbaton.testing.handshake import EndOptions
from quicbaton.testing.link import Conditions, Delivery, Direction, Link
from quicbaton.testing.moving import move
from quicbaton.testing.nonces import NonceChecker, Packet
from quicbaton.testing.pair import CLIENT_ADDRESS, SERVER_ADDRESS, Pair, run_together
from quicbaton.testing.sleeping import sleep

__all__ = [
    "CLIENT_ADDRESS",
    "SERVER_ADDRESS",
    "SERVER_NAME",
    "Application",
    "Cluster",
    "Conditions",
    "CreateApplication",
    "Delivery",
    "Direction",
    "End",
    "EndOptions",
    "Entropy",
    "Kind",
    "Link",
    "NonceChecker",
    "NonceReuseError",
    "Packet",
    "Pair",
    "SpinningError",
    "StuckError",
    "Unpacked",
    "move",
    "run_together",
    "self_signed",
    "sleep",
]
