"""The manifests of examples/deploy/kubernetes, and the image's command, against the program."""

from __future__ import annotations

import ast
import copy
import datetime
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from quicbaton.cli.certificate import LOCAL_NAMES, write_self_signed
from quicbaton.cli.main import parser_of
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.cli.command_line import GUARD_S, Home, Server, home
from tests.docs.blocks import ROOT
from tests.docs.terminal import free_port

_FOLDER = ROOT / "examples" / "deploy"
_DOCUMENTS: list[Any] = list(
    yaml.safe_load_all((_FOLDER / "kubernetes" / "quicbaton.yaml").read_text(encoding="utf-8"))
)
_DOCKERFILE = (_FOLDER / "Dockerfile").read_text(encoding="utf-8")


def _document(kind: str) -> Any:
    (found,) = [document for document in _DOCUMENTS if document["kind"] == kind]
    return found["spec"]


_POD = _document("Deployment")["template"]["spec"]
(CONTAINER,) = _POD["containers"]
(INITIAL_CONTAINER,) = _POD["initContainers"]


def _instruction(name: str) -> list[str]:
    (found,) = re.findall(rf"^{name} (\[.*\])$", _DOCKERFILE, re.MULTILINE)
    words: list[str] = ast.literal_eval(found)
    return words


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Iterator[Home]:
    with home(tmp_path) as made:
        yield made


@pytest.mark.parametrize("arguments", [CONTAINER["args"], _instruction("CMD")])
def test_the_program_understands_the_containers_arguments(arguments: list[str]) -> None:
    _, *words = _instruction("ENTRYPOINT")
    parser_of("serve").parse_args([*words, *arguments])


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda document: document["kind"])
def test_the_manifests_are_what_the_api_of_kubernetes_takes(document: Any, version: str) -> None:
    """By the schema of the API, in which every field that is not known is a mistake."""
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_of_a_manifest_is_found() -> None:
    document = copy.deepcopy(_DOCUMENTS[0])
    container = document["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_names_and_times_of_the_manifests_fit_together() -> None:
    ports = {port["name"]: port for port in CONTAINER["ports"]}
    for port in _document("Service")["ports"]:
        assert ports[port["targetPort"]]["protocol"] == port["protocol"]
    assert {probe["httpGet"]["port"] for probe in probes()} <= set(ports)
    options = dict(argument.split("=", 1) for argument in CONTAINER["args"])
    assert ports["quic"]["containerPort"] == int(options["--port"])
    assert options["--metrics"].endswith(f":{ports['metrics']['containerPort']}")
    before = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert _POD["terminationGracePeriodSeconds"] > before + int(options["--grace"])
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    files = [options[name] for name in ("--cert", "--key", "--keys")]
    assert {str(Path(file).parent) for file in files} == mounted
    # The Service's own variables would be options.
    assert _POD["enableServiceLinks"] is False


@pytest.mark.process
def test_the_containers_command_answers_its_probes_and_ends_on_sigterm(home: Home) -> None:
    (home.path / "main.py").write_text("async def app(scope, receive, send): ...\n")
    (home.path / "tls").mkdir()
    (home.path / "keys").mkdir()
    files = write_self_signed(home.path, datetime.datetime.now(datetime.UTC), LOCAL_NAMES)
    files.certificate.rename(home.path / "tls" / "tls.crt")
    files.key.rename(home.path / "tls" / "tls.key")
    secret = home.path / "cluster.keys"
    secret.write_text(KeyRing(ClusterKey.generate(os.urandom)).encode())
    secret.chmod(0o440)
    *command, _, target = INITIAL_CONTAINER["command"]
    subprocess.run([*command, secret, f"{home.path}{target}"], check=True)
    metrics = free_port()
    here = {"=/": f"={home.path}/", "9100": str(metrics)}
    arguments = [_replaced(argument, here) for argument in CONTAINER["args"]]
    _, *words = _instruction("ENTRYPOINT")
    more = (f"--port={free_port()}", "--json")
    server = Server(home.start("quicbaton", *words, *arguments, *more))
    for probe in probes():
        url = f"http://127.0.0.1:{metrics}{probe['httpGet']['path']}"
        with urllib.request.urlopen(url, timeout=GUARD_S) as answer:
            assert answer.status == 200
    assert server.stop() == 0


def probes() -> list[Any]:
    return [CONTAINER["readinessProbe"], CONTAINER["livenessProbe"]]


def _replaced(text: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        text = text.replace(old, new)
    return text
