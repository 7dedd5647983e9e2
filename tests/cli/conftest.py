"""A home for every test that starts processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import Home
from tests.cli.command_line import home as make_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with make_home(tmp_path) as made:
        yield made
