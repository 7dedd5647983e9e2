"""The congestion control algorithms by their names."""

from __future__ import annotations

from typing import Final

from quicbaton.transport.loss.bbr.controller import Bbr
from quicbaton.transport.loss.congestion import CongestionController
from quicbaton.transport.loss.cubic import Cubic
from quicbaton.transport.loss.reno import Reno
from quicbaton.transport.state import CongestionState

_CONTROLLERS: Final[dict[str, type[CongestionController]]] = {
    "reno": Reno,
    "cubic": Cubic,
    "bbr": Bbr,
}


def controller(state: CongestionState) -> CongestionController:
    """The controller of the algorithm that `state` names."""
    return _CONTROLLERS[state.algorithm](state)
