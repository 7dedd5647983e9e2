"""The requests of a process, as they begin and as they are answered. The code that serves them
counts them."""

from __future__ import annotations

from collections import Counter


class RequestCount:
    """Requests, WebSockets and sessions since the process began."""

    def __init__(self) -> None:
        #: Those that a program or a folder began to answer. It omits those that were refused
        #: before that, or moved on before the program began.
        self.total = 0
        #: Those by HTTP/1.1 and HTTP/2, which the total includes.
        self.over_tcp = 0
        #: Those that were answered, by version of HTTP and status.
        self.answered: Counter[tuple[str, int]] = Counter()

    def by_class(self) -> dict[str, int]:
        """The answered ones by version and class of status: {"3 2xx": 5}. `none`: the client was
        gone before an answer, or got a reset."""
        classes: Counter[str] = Counter()
        for (version, status), count in self.answered.items():
            classes[f"{version} {status // 100}xx" if status else f"{version} none"] += count
        return dict(classes)
