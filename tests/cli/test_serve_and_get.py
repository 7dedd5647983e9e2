"""`quicbaton serve` and `quicbaton get`, as processes."""

import contextlib
import hashlib
import json
import signal
import socket
import stat
from io import BytesIO
from pathlib import Path
from random import randrange

import pycurl
import pytest

from tests.cli.command_line import Home

pytestmark = pytest.mark.process


def head(url: str, ca: Path) -> tuple[int, bytes]:
    """A HEAD request by libcurl: status and header fields."""
    fields = BytesIO()
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.NOBODY, 1)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.CAINFO, str(ca))
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.TIMEOUT, 60)
    curl.setopt(pycurl.HEADERFUNCTION, fields.write)
    curl.perform()
    status: int = curl.getinfo(pycurl.RESPONSE_CODE)
    curl.close()
    return status, fields.getvalue()


def quiet_port() -> int:
    """A free UDP port below the range from which Linux gives any port."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        ):
            sock.bind(("127.0.0.1", randrange(20_000, 32_000)))
            return int(sock.getsockname()[1])


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


def test_a_file_is_served_and_fetched_whole(home: Home) -> None:
    content = home.write("file.bin", 5_000_000)
    server = home.serve()
    url = f"https://localhost:{server.port}/file.bin"
    got = home.json("get", url, "--ca", home.ca, "-o", "copy.bin")
    assert got["bytes"] == len(content)
    assert (home.path / "copy.bin").read_bytes() == content
    assert sorted(path.name for path in home.path.iterdir() if path.is_file()) == ["copy.bin"]

    outcome = home.download(server, "file.bin", 0).outcome()
    assert outcome["sha256"] == hashlib.sha256(content).hexdigest()
    status, fields = head(url, home.ca)
    assert status == 200
    assert b"content-length: 5000000" in fields
    assert server.stop() == 0
    assert not server.control.exists()


def test_the_server_says_how_to_trust_it(home: Home) -> None:
    home.write("file.bin", 10)
    port = str(quiet_port())
    process = home.start("quicbaton", "serve", home.files, "--host", "127.0.0.1", "--port", port)
    assert process.stdout is not None
    lines = []
    while not lines or not lines[-1].strip().startswith("control"):
        lines.append(process.stdout.readline())
    command = next(line for line in lines if "quicbaton get" in line).split()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert command[command.index("--ca") + 1] == str(home.ca)
    assert "stopped" in rest


def test_a_port_that_is_none_is_not_understood(home: Home) -> None:
    for port in ("65536", "-1", "http"):
        refused = home.run("serve", home.files, f"--port={port}")
        assert refused.returncode == 2
        assert "from 0 to 65535" in refused.stderr


def test_certificates_are_verified_unless_told_not_to(home: Home) -> None:
    home.write("file.bin", 1000)
    server = home.serve()
    url = f"https://localhost:{server.port}/file.bin"
    refused = home.run("get", url, "-o", "copy.bin")
    assert refused.returncode == 1
    assert "--ca" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (home.path / "copy.bin").exists()
    assert home.run("get", url, "-o", "copy.bin", "--insecure").returncode == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_hosts_are_named_in_every_form_and_paths_in_any_letters(home: Home, host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    content = home.write("grüße mit raum.bin", 1000)
    server = home.serve("--host", "", "--port", "0")
    url = f"https://{host}:{server.port}/grüße mit raum.bin?x=1"
    home.json("get", url, "--ca", home.ca, "-o", "copy.bin")
    assert (home.path / "copy.bin").read_bytes() == content


def test_servers_at_two_hosts_have_certificates_of_their_own(home: Home) -> None:
    content = home.write("file.bin", 1000)
    first = home.serve()
    second = home.serve("--host", "127.0.0.2", "--port", "0")
    for server, host in ((first, "localhost"), (second, "127.0.0.2")):
        url, ca = f"https://{host}:{server.port}/file.bin", server.events[-1]["certificate"]
        home.json("get", url, "--ca", ca, "-o", "copy.bin")
        assert (home.path / "copy.bin").read_bytes() == content


def test_an_answer_that_is_not_200_leaves_no_file(home: Home) -> None:
    server = home.serve()
    url = f"https://localhost:{server.port}/none"
    refused = home.run("get", url, "--ca", home.ca, "-o", "copy.bin", "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stderr)
    assert (error["error"], error["status"]) == ("http_status", 404)
    assert [path for path in home.path.iterdir() if path.is_file()] == []


def test_a_body_that_breaks_off_leaves_no_file(home: Home) -> None:
    # Of nothing but holes, and more than can come in the meantime.
    with (home.files / "file.bin").open("wb") as file:
        file.truncate(2_000_000_000)
    server = home.serve()
    url = f"https://localhost:{server.port}/file.bin"
    process = home.start("quicbaton", "get", url, "--ca", home.ca, "-o", "copy.bin")
    part = None
    while process.poll() is None and (part is None or not part.stat().st_size):
        part = next(home.path.glob(".copy.bin.*.part"), None)
    with (home.files / "file.bin").open("r+b") as file:
        file.truncate(100)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "broke off" in errors
    assert [path for path in home.path.iterdir() if path.is_file()] == []


def test_nobody_at_the_port_is_said_after_the_time_given(home: Home) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        refused = home.run("get", url, "--insecure", "-o", "copy.bin", "--timeout", "0.2")
    assert refused.returncode == 1
    assert "nobody answered" in refused.stderr


def test_a_port_that_is_taken_is_refused_with_the_socket_to_use(home: Home) -> None:
    server = home.serve()
    port = str(server.port)
    refused = home.run("serve", home.files, "--host", "127.0.0.1", "--port", port)
    assert refused.returncode == 1
    assert str(server.control) in refused.stderr
    assert "--join" in refused.stderr
    assert "--takeover" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ((), 2, "usage"),
        (("serve", "--json"), 2, '{"error":"usage"'),
        (("serve",), 2, "DIR"),
        (("serve", "nowhere"), 1, "nowhere is not a folder"),
        (("serve", "files", "--cert", "x"), 1, "--key"),
        (("serve", "files", "--join", "a", "--takeover", "b"), 2, "not allowed"),
        (("serve", "files", "--join", "nowhere.sock"), 1, "nobody answers"),
        (("get", "http://localhost/"), 1, "HTTP/3 needs https"),
        (("get", "https://localhost/", "--ca", "nowhere"), 1, "not a file"),
        (("ps", "nowhere.sock"), 1, "nobody answers"),
        (("inspect", "nowhere"), 1, "nowhere"),
        (("resume", "nowhere", "--to", "x"), 1, "not a file"),
    ],
)
def test_mistakes_are_named_on_one_line(
    home: Home, arguments: tuple[str, ...], status: int, text: str
) -> None:
    failed = home.run(*arguments)
    assert failed.returncode == status
    assert text in failed.stderr
    if status == 1:
        assert len(failed.stderr.splitlines()) == 1


def test_a_key_log_is_written_only_when_asked_for_and_closed_to_others(home: Home) -> None:
    home.write("file.bin", 1000)
    home.environment["SSLKEYLOGFILE"] = str(home.path / "implicit.log")
    server = home.serve("--keylog", home.path / "keys.log")
    home.environment.pop("SSLKEYLOGFILE")
    url = f"https://localhost:{server.port}/file.bin"
    home.json("get", url, "--ca", home.ca, "-o", "copy.bin")
    assert "SERVER_TRAFFIC_SECRET_0" in (home.path / "keys.log").read_text()
    assert stat.S_IMODE((home.path / "keys.log").stat().st_mode) == 0o600
    assert not (home.path / "implicit.log").exists()


def test_retry_and_qlog_are_options(home: Home) -> None:
    home.write("file.bin", 1000)
    server = home.serve("--retry", "--qlog", home.path / "qlog")
    url = f"https://localhost:{server.port}/file.bin"
    home.json("get", url, "--ca", home.ca, "-o", "copy.bin")
    assert server.stop() == 0
    assert len(list((home.path / "qlog").iterdir())) == 1
