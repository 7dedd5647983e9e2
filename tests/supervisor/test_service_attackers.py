"""An attacker at the port where a service shows its figures."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from quicbaton.limits import MAX_METRICS_REQUESTS
from tests.cli.command_line import check_whole, wait_for
from tests.processes.attacker import open_files, resident_bytes, threads
from tests.supervisor.service_home import FILE_BYTES, ServiceHome

pytestmark = pytest.mark.process

_MB = 1 << 20


def test_the_metrics_port_can_be_flooded_and_costs_nobody_anything(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES // 6)
    service = home.service(2, "--metrics", "0")
    event = service.wait_for("metrics")
    download = home.download(service, "file.bin", 300_000)
    download.wait_for_bytes(1)
    before = (threads(service.pid), open_files(service.pid), resident_bytes(service.pid))
    socks = []
    for begin in (b"", b"GET ", b"GET / HTTP/1.1\r\nA: b\r\n", b"\x16\x03\x01" * 20):
        for _ in range(3 * MAX_METRICS_REQUESTS):
            sock = socket.create_connection(("127.0.0.1", event["port"]))
            sock.sendall(begin)
            socks.append(sock)
    assert threads(service.pid) - before[0] <= MAX_METRICS_REQUESTS
    wait_for(
        lambda: open_files(service.pid) - before[1], lambda more: more <= MAX_METRICS_REQUESTS + 8
    )
    assert resident_bytes(service.pid) - before[2] < 32 * _MB
    for sock in socks:
        sock.close()
    text = wait_for(lambda: _scrape(event["url"]), bool)
    assert "quicbaton_connections" in text
    # Figures, and nothing else: no names of connections, no addresses, no paths.
    for secret in (str(home.path), "127.0.0.1", *service.names(0), *service.names(1)):
        assert secret not in text
    for path in ("/../../etc/passwd", "/?name[]=x", "/" + "x" * 10_000):
        assert "root:" not in _scrape(event["url"].removesuffix("/metrics") + path)
    check_whole(download, content)
    assert service.stop() == 0


def _scrape(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""
