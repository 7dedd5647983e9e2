"""docs/deploy/behind-one-address.md: its commands on two hosts, under downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.guide import (
    WITH_KEY,
    Download,
    Site,
    keyed_balance,
    led_to,
    shift_to,
    site_of_the_guide,
)
from tests.hosts.network import Host
from tests.hosts.sites import SHARED

pytestmark = pytest.mark.process

#: Balancers with a key: as the guide configures one, and with the longer nonce that it names.
_FOUR_PASSES: Final = "quic-lb, four passes"
_ONE_PASS: Final = "quic-lb, one pass"


async def _put_in_front(site: Site, kind: str, newcomers: Host) -> None:
    """What is in front of the hosts; new clients come to that one."""
    if kind in (_FOUR_PASSES, _ONE_PASS):
        order = keyed_balance()
        if kind == _ONE_PASS:
            order = msgspec.structs.replace(order, nonce_bytes=14)
        await site.network.balance_as(order, newcomers)
        return
    nodes = {1: site.a, 2: site.b} if kind == "quic-lb" else {}
    await site.network.balance(SHARED, nodes, newcomers)


@pytest.mark.parametrize("kind", ["vrrp", "quic-lb", _FOUR_PASSES, _ONE_PASS])
async def test_a_host_is_emptied_under_a_download_as_the_guide_says(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles, kind: str
) -> None:
    async with site_of_the_guide(tmp_path, seed, hosts_certificate) as site:
        await _put_in_front(site, kind, site.a)
        heading = WITH_KEY if kind in (_FOUR_PASSES, _ONE_PASS) else "The cluster"
        if kind == _ONE_PASS:
            for host in (site.a, site.b):
                forms = host.folder / "forms"
                text = forms.read_text()
                forms.write_text(text.replace("encrypted:", "encrypted:nonce=13,"))
        await site.serve(site.a, heading)
        await site.serve(site.b, heading)
        download = await site.download()
        assert await site.connections(site.a) == 1
        await site.moved(download, 7, site.a)
        await site.say(site.a, "drain ")
        assert await site.connections(site.b) == 1
        if kind != "vrrp":
            await site.packets_lead_to(site.b)
        since = await site.count()
        await site.moved(download, 1000, site.b)
        if kind != "vrrp":
            # By the new owner's connection IDs, whatever the client's address is.
            assert {note.receiver for note in await site.from_client(since)} == {"b"}
        # The address moves; behind a balancer, new clients do.
        await _put_in_front(site, kind, site.b)
        await site.say(site.a, "stop")
        await download.finish()


async def test_hosts_that_routers_choose_by_a_hash_pass_packets_on_to_the_owner(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    """The routers know nothing of connection IDs, nor the hosts of each other's connections."""
    async with site_of_the_guide(tmp_path, seed, hosts_certificate) as site:
        a, b = site.a, site.b
        await site.serve(a)
        await site.serve(b)
        await site.network.spread(SHARED, [a])
        # With two hosts, these two lead to one each.
        downloads: dict[str, Download] = {}
        while len(downloads) < 2:
            download = await site.download()
            name = led_to(download.port, [a, b]).name
            if name in downloads:
                await download.finish()
            else:
                downloads[name] = download
        assert not await site.connections(b)
        await site.network.spread(SHARED, [a, b])
        since = await site.count()
        await downloads["b"].finish()
        assert await _receivers(site, downloads["b"].port, since) == {"b"}
        assert await site.tossed(b) > 0
        kept = downloads["a"]
        away = shift_to(b, kept.port, [a, b])
        await site.moved(kept, away, a)
        assert await _receivers(site, kept.port + away, since) == {"b"}
        await site.say(a, "drain ")
        assert await site.connections(b) == 1
        back = shift_to(a, kept.port, [a, b])
        await site.moved(kept, back, b)
        assert await _receivers(site, kept.port + back, since) == {"a"}
        # The route of a is withdrawn.
        await site.network.spread(SHARED, [b])
        await site.say(a, "stop")
        await kept.finish()


async def _receivers(site: Site, port: int, since: int) -> set[str]:
    """The hosts that the client's datagrams from this port have reached."""
    return {note.receiver for note in await site.from_client(since) if note.source_port == port}
