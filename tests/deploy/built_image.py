"""The image of examples/deploy is built, and run as the manifests say: `make image`."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicbaton.cli.certificate import LOCAL_NAMES, write_self_signed
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.cli.command_line import wait_for
from tests.deploy.container import Container, Images, container
from tests.deploy.test_kubernetes import CONTAINER, INITIAL_CONTAINER, probes

_NAME = CONTAINER["image"]
_PROGRAM = {
    "requirements.txt": "starlette\n",
    "main.py": """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))])
""",
}
_ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).status)"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("images")
    try:
        made = Images(folder)
        made.build(_NAME, _PROGRAM)
        yield made
    finally:
        # A gigabyte, of which pytest would keep some.
        shutil.rmtree(folder)


def test_the_image_serves_as_the_manifests_say(images: Images, tmp_path: Path) -> None:
    """Keys copied, probes answered, a request over HTTP/3, a reload, and an end by SIGTERM."""
    configuration = images.configuration(_NAME)
    user = int(configuration["User"])
    for name in ("tls", "secret", "keys"):
        (tmp_path / name).mkdir()
    files = write_self_signed(tmp_path, datetime.datetime.now(datetime.UTC), LOCAL_NAMES)
    files.certificate.rename(tmp_path / "tls" / "tls.crt")
    files.key.rename(tmp_path / "tls" / "tls.key")
    secret = tmp_path / "secret" / "cluster.keys"
    secret.write_text(KeyRing(ClusterKey.generate(os.urandom)).encode())
    # As the files of a secret are: root's, and open to the pod's group.
    for file in (secret, tmp_path / "tls" / "tls.key"):
        os.chown(file, 0, user)
        file.chmod(0o440)
    os.chown(tmp_path / "keys", user, user)
    with images.root(_NAME) as root:
        copy = INITIAL_CONTAINER["command"]
        with container(tmp_path, root, configuration, copy, "/secret", "/keys") as first:
            assert first.process.wait() == 0
        words = [*configuration["Entrypoint"], *CONTAINER["args"], "--json"]
        with container(tmp_path, root, configuration, words, "/tls", "/keys") as pod:
            output = tmp_path / "output"
            wait_for(
                output.read_text, lambda text: '"ready"' in text or pod.process.poll() is not None
            )
            assert pod.process.poll() is None, output.read_text()
            for probe in probes():
                url = f"http://localhost:9100{probe['httpGet']['path']}"
                assert pod.run("python3", "-c", _ASK, url) == "200\n"
            assert _answer(pod) == "hello"
            before = _workers(pod.run("quicbaton", "workers", "--json"))
            pod.run("quicbaton", "reload")
            after = _workers(pod.run("quicbaton", "workers", "--json"))
            assert len(after) == len(before) == 2
            assert not after & before
            assert _answer(pod) == "hello"
            assert pod.terminate() == 0


def _answer(pod: Container) -> str:
    """Over HTTP/3."""
    url = "https://localhost:4433/"
    pod.run("quicbaton", "get", url, "--ca", "/tls/tls.crt", "-o", "/tmp/answer")
    return pod.run("cat", "/tmp/answer")


def _workers(text: str) -> set[int]:
    return {worker["pid"] for worker in json.loads(text)["workers"]}
