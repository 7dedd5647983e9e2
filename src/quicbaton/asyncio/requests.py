"""The number of requests with which a process's program has begun. The code that runs the program
counts them."""

from __future__ import annotations


class RequestCount:
    """Requests, WebSockets and sessions since the process began. It omits those that were refused
    before the program saw them, or moved on before it began."""

    def __init__(self) -> None:
        self.total = 0
        #: Those by HTTP/1.1 and HTTP/2, which the total includes.
        self.over_tcp = 0
