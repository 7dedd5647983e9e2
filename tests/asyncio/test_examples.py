"""The programs in `examples/`, against each other and libcurl."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

from demo.curl import download
from quicbaton.cli.certificate import CertificateFiles
from tests.asyncio.loopback import body_of

_EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", _EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_http3_examples(certificate: CertificateFiles) -> None:
    server_module, client_module = load("http3_server"), load("http3_client")
    server = await server_module.start(
        "localhost", 0, certificate.certificate, certificate.key, retry=True
    )
    base = f"https://localhost:{server.port}"
    answers = await client_module.fetch(
        [f"{base}/1", f"{base}/3000000", f"{base}/"], certificate.certificate
    )
    assert [(status, len(body)) for status, body in answers] == [
        (200, 1),
        (200, 3_000_000),
        (404, 14),
    ]
    content = body_of(2_000_000)
    echoed = await client_module.fetch([f"{base}/echo"], certificate.certificate, content)
    assert echoed == [(200, content)]
    outcome = await asyncio.to_thread(download, f"{base}/2000000", ca_file=certificate.certificate)
    assert outcome.ok, outcome.error
    assert outcome.received_bytes == 2_000_000
    server.close()
