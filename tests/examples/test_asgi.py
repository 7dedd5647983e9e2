"""examples/asgi, as its README says, through a reload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.curl_client import Curl, content
from tests.examples.example_service import Example, example

pytestmark = pytest.mark.process

_PIECE = bytes(range(256)) * 256


@pytest.fixture
def asgi(tmp_path: Path) -> Iterator[Example]:
    with example("asgi", tmp_path) as started:
        yield started


def test_everything_goes_on_through_a_reload(asgi: Example) -> None:
    events = asgi.home.download(asgi.service, "events/60", 1_000_000)
    download = asgi.home.download(asgi.service, "download/8", 1_500_000)
    upload = Curl(asgi.home, asgi.url("upload"), "--upload", "10000000")
    for one in (events, download):
        one.wait_for_bytes(1)
    before, _ = asgi.reload()
    upload.hurry()
    outcome = download.outcome()
    assert not outcome["error"]
    whole = (_PIECE * (8_000_000 // len(_PIECE) + 1))[:8_000_000]
    assert outcome["sha256"] == hashlib.sha256(whole).hexdigest()
    outcome = events.outcome()
    assert not outcome["error"]
    told = {
        pid: hashlib.sha256(
            b"".join(b"data: %d from process %d\n\n" % (number, pid) for number in range(60))
        ).hexdigest()
        for pid in before
    }
    assert outcome["sha256"] in told.values()
    assert upload.end() == ([hashlib.sha256(content(10_000_000)).hexdigest()], 0)
