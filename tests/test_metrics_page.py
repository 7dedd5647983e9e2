"""The page about metrics is up to date, and their names follow Prometheus' conventions."""

from __future__ import annotations

import re

from quicbaton.service.metric_families import FAMILIES
from tests.metrics_page import PAGE, page


def test_the_table_of_metrics_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make metrics`"


def test_names_are_base_units_and_each_is_given_once() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"quicbaton(_[a-z0-9]+)+", family.name)
        assert not re.search(r"_(ms|us|kb|mb|total|count|sum|bucket)\b", family.name)
        assert family.text.endswith(".")
