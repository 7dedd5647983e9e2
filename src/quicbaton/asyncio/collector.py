"""The garbage collector's threshold while servers run in this process.

By default the collector looks for cycles whenever there are 700 more containers than before, which
is a handshake or two, and at the whole heap after some hundred handshakes: 2 % of their CPU, and a
pause of 26 ms. It finds none of ours: handshakes and connections are freed without its help.

The setting is the process's, and the program's garbage is none of ours: nothing is frozen, older
generations are looked at in the same proportion as before, and with the last server the program's
own threshold comes back. A program that has set a higher one, or none, keeps it.
"""

from __future__ import annotations

import gc
from typing import Final

from quicbaton.limits import YOUNG_OBJECTS


class Collector:
    """Knows how many servers run, and the threshold from before the first of them."""

    def __init__(self) -> None:
        self._servers = 0
        self._before = 0

    def begin(self) -> None:
        """A server begins to run."""
        self._servers += 1
        young, *older = gc.get_threshold()
        if self._servers == 1 and 0 < young < YOUNG_OBJECTS:
            self._before = young
            gc.set_threshold(YOUNG_OBJECTS, *older)

    def end(self) -> None:
        """A server has ended."""
        self._servers -= 1
        young, *older = gc.get_threshold()
        if self._servers or not self._before:
            return
        if young == YOUNG_OBJECTS:  # else the program has set another one meanwhile
            gc.set_threshold(self._before, *older)
        self._before = 0


#: That of this process.
COLLECTOR: Final = Collector()
