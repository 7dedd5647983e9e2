"""examples/django, as its README says, through a reload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.curl_client import Curl, content
from tests.examples.example_service import Example, example

pytestmark = pytest.mark.process

_PIECE = bytes(range(256))


@pytest.fixture
def django(tmp_path: Path) -> Iterator[Example]:
    with example("django", tmp_path) as started:
        yield started


def page_pid(django: Example) -> int:
    lines, error = Curl(django.home, django.url("")).end()
    assert not error
    (heading,) = (line for line in lines if line.startswith("<h1>Process "))
    return int(heading.split()[1])


def test_a_download_and_an_upload_go_on_through_a_reload(django: Example) -> None:
    first = page_pid(django)
    download = django.home.download(django.service, "download/8", 1_000_000)
    form = ("--upload", "4000000", "--form", "file")
    upload = Curl(django.home, django.url("upload"), *form)
    download.wait_for_bytes(1)
    before, after = django.reload()
    assert first in before
    upload.hurry()
    assert upload.end() == ([hashlib.sha256(content(4_000_000)).hexdigest()], 0)
    outcome = download.outcome()
    assert not outcome["error"]
    assert outcome["sha256"] == hashlib.sha256(_PIECE * (8_000_000 // 256)).hexdigest()
    assert page_pid(django) in after
