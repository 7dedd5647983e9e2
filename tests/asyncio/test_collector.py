"""The collector's threshold is the process's: a server borrows it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio import serve
from quicbaton.asyncio.collector import Collector
from quicbaton.asyncio.server import QuicServer
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.limits import YOUNG_OBJECTS


@pytest.fixture(autouse=True)
def threshold() -> Iterator[tuple[int, int, int]]:
    """Python's own, whatever tests before have done."""
    before = gc.get_threshold()
    usual = (700, 10, 10)
    gc.set_threshold(*usual)
    yield usual
    gc.set_threshold(*before)


async def start(files: CertificateFiles) -> QuicServer:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(files.certificate, files.key)
    return await serve("127.0.0.1", 0, configuration=configuration)


async def test_the_threshold_is_higher_while_a_server_runs_and_then_as_before(
    certificate: CertificateFiles, threshold: tuple[int, int, int]
) -> None:
    frozen = gc.get_freeze_count()
    first, second = await start(certificate), await start(certificate)
    assert gc.get_threshold() == (YOUNG_OBJECTS, 10, 10)
    assert gc.get_freeze_count() == frozen, "the program's garbage is collected as before"
    first.close()
    first.close()
    assert gc.get_threshold() == (YOUNG_OBJECTS, 10, 10), "the second one still runs"
    second.close()
    assert gc.get_threshold() == threshold
    third = await start(certificate)
    assert gc.get_threshold() == (YOUNG_OBJECTS, 10, 10)
    third.close()
    assert gc.get_threshold() == threshold


@pytest.mark.parametrize("own", [(0, 10, 10), (YOUNG_OBJECTS, 5, 5), (50_000, 20, 100)])
def test_a_program_with_a_higher_threshold_or_none_keeps_it(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    collector = Collector()
    collector.begin()
    assert gc.get_threshold() == own
    collector.end()
    assert gc.get_threshold() == own


def test_a_threshold_that_the_program_sets_meanwhile_stays() -> None:
    collector = Collector()
    collector.begin()
    gc.set_threshold(2_000, 10, 10)
    collector.end()
    assert gc.get_threshold() == (2_000, 10, 10)
    collector.begin()
    collector.end()
    assert gc.get_threshold() == (2_000, 10, 10)
