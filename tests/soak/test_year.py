"""Two minutes of a year; `make soak` is the whole of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.soak.year import TWO_MINUTES, Year
from tests.supervisor.service_home import service_home

pytestmark = pytest.mark.process


def test_nothing_is_lost_and_nothing_grows(tmp_path_factory: pytest.TempPathFactory) -> None:
    seed = int(os.environ.get("QUICBATON_SEED") or int.from_bytes(os.urandom(4)))
    print(f"QUICBATON_SEED={seed}")
    with service_home(Path(tmp_path_factory.mktemp("s"))) as home:
        year = Year(home, TWO_MINUTES, seed)
        year.run(lambda _name: None)
    assert year.requests > 0
