"""examples/asgi, as its README says, through a reload."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_home import Service, ServiceHome, service_home

pytestmark = pytest.mark.process

_EXAMPLE = Path(__file__).parents[2] / "examples" / "asgi"
_UPLOAD = bytes(range(251)) * 40_000

_UPLOADER = """
import pycurl, sys, time
left = bytes(range(251)) * 40_000
def read(size):
    global left
    time.sleep(0.01)
    piece, left = left[:size], left[size:]
    return piece
curl = pycurl.Curl()
curl.setopt(pycurl.URL, sys.argv[1])
curl.setopt(pycurl.CAINFO, sys.argv[2])
curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
curl.setopt(pycurl.POST, 1)
curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
curl.setopt(pycurl.READFUNCTION, read)
curl.setopt(pycurl.WRITEFUNCTION, lambda body: print(body.decode()))
print("begun", flush=True)
curl.perform()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made


def test_everything_goes_on_through_a_reload(home: ServiceHome) -> None:
    arguments = ("--host", "127.0.0.1", "--port", "0", "--json", "--workers", "2")
    command = ("serve", "app:app", "--app-dir", _EXAMPLE, *arguments)
    service = Service(home, home.start("quicbaton", *command))
    service.all_serve()
    events = home.download(service, "events/60", 1_000_000)
    download = home.download(service, "download/8", 1_500_000)
    uploader = subprocess.Popen(
        [sys.executable, "-c", _UPLOADER, f"https://localhost:{service.port}/upload", home.ca],
        stdout=subprocess.PIPE,
        text=True,
    )
    home.adopt(uploader)
    assert uploader.stdout is not None
    assert uploader.stdout.readline() == "begun\n"
    for one in (events, download):
        one.wait_for_bytes(1)
    before = service.pids()
    done = home.run("reload", service.control, "--json")
    assert done.returncode == 0, done.stderr
    assert not set(before) & set(service.pids())
    piece = bytes(range(256)) * 256
    whole = (piece * (8_000_000 // len(piece) + 1))[:8_000_000]
    outcome = download.outcome()
    assert not outcome["error"]
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
    assert uploader.wait(60) == 0
    assert uploader.stdout.read().strip() == hashlib.sha256(_UPLOAD).hexdigest()
