"""Exit statuses of the commands, beside 0 and 1."""

from __future__ import annotations

from typing import Final

#: The arguments, the environment or the configuration file are not understood; argparse has it.
NOT_UNDERSTOOD: Final = 2
#: SIGINT ended the command, as a shell says it.
INTERRUPTED: Final = 130
