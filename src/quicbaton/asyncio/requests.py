"""How many requests a process's program was begun with; whoever runs the program counts."""

from __future__ import annotations


class RequestCount:
    """Requests, WebSockets and sessions since the process began. One that was refused before the
    program saw it, or that moved on before the program began, is none of them."""

    def __init__(self) -> None:
        self.total = 0
        #: Of these, by HTTP/1.1 and HTTP/2.
        self.over_tcp = 0
