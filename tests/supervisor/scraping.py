"""A service's metrics as a scraper reads them."""

from __future__ import annotations

import urllib.request

from tests.cli.command_line import GUARD_S

#: Endings of names of samples that only grow.
_GROWING = ("_total", "_count", "_bucket", "_sum")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scrape(url: str) -> dict[str, float]:
    """The samples of a page of metrics, by name and labels."""
    request = urllib.request.Request(url, headers={"Accept": OPENMETRICS})
    with urllib.request.urlopen(request, timeout=GUARD_S) as answer:
        lines = answer.read().decode().splitlines()
    assert lines[-1] == "# EOF"
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def counters(samples: dict[str, float]) -> dict[str, float]:
    return {
        name: value for name, value in samples.items() if name.partition("{")[0].endswith(_GROWING)
    }


def total(samples: dict[str, float], name: str) -> float:
    """The sum of a metric over all labels."""
    return sum(value for key, value in samples.items() if key.partition("{")[0] == name)
