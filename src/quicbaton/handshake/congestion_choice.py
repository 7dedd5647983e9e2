"""Which congestion control a connection has after its handshake."""

from __future__ import annotations

from typing import Final

from aioquic.quic.configuration import QuicConfiguration

from quicbaton.transport.loss.congestion import check_algorithm

#: That of a server which names none. docs/congestion.md says why.
DEFAULT_ALGORITHM: Final = "cubic"
#: aioquic's own default. It drives the handshake and nothing after it.
OF_HANDSHAKES: Final = "reno"


def take_choice(configuration: QuicConfiguration) -> str:
    """The algorithm that `configuration.congestion_control_algorithm` names.

    aioquic is left with one that it knows. Raises ConfigurationError for a name that we do not.
    """
    chosen = configuration.congestion_control_algorithm
    check_algorithm(chosen)
    configuration.congestion_control_algorithm = OF_HANDSHAKES
    return chosen


def choose(argument: str | None, configuration: QuicConfiguration) -> str:
    """The algorithm for a server of a program's own: `argument`, else the configuration's.

    The configuration's counts unless it is aioquic's default, which says nothing. Raises
    ConfigurationError for a name that we do not know.
    """
    configured = configuration.congestion_control_algorithm
    chosen = argument or (DEFAULT_ALGORITHM if configured == OF_HANDSHAKES else configured)
    check_algorithm(chosen)
    return chosen
