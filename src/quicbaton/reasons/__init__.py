"""Why something was done or not: machine-readable codes that know their meaning."""

from quicbaton.reasons.explanation import Fault
from quicbaton.reasons.reason import Reason, heard

__all__ = ["Fault", "Reason", "heard"]
