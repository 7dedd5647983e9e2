"""examples/fastapi, as its README says, through a reload."""

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
def fastapi(tmp_path: Path) -> Iterator[Example]:
    with example("fastapi", tmp_path) as started:
        yield started


def test_a_download_and_an_upload_go_on_through_a_reload(fastapi: Example) -> None:
    download = fastapi.home.download(fastapi.service, "download/8", 1_000_000)
    upload = Curl(fastapi.home, fastapi.url("upload"), "--upload", "8000000")
    download.wait_for_bytes(1)
    megabyte, process = upload.line().split(", process ")
    assert megabyte == "1 MB"
    before, after = fastapi.reload()
    assert int(process) in before
    upload.hurry()
    lines, error = upload.end()
    assert not error
    assert lines == [
        *(f"{number} MB, process {process}" for number in range(2, 9)),
        f"sha256 {hashlib.sha256(content(8_000_000)).hexdigest()}",
    ]
    outcome = download.outcome()
    assert not outcome["error"]
    assert outcome["sha256"] == hashlib.sha256(_PIECE * (8_000_000 // 256)).hexdigest()
    # What begins now is the new program's.
    lines, error = Curl(fastapi.home, fastapi.url("upload"), "--upload", "1000000").end()
    assert not error
    assert int(lines[0].removeprefix("1 MB, process ")) in after
    page, error = Curl(fastapi.home, fastapi.url("")).end()
    assert (page[0], error) == ("<!doctype html>", 0)
