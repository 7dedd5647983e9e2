"""A home for every test that starts a service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.service_home import ServiceHome, service_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made
