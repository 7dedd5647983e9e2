"""`quicbaton check`: what `serve` would do, and where its options come from."""

from __future__ import annotations

import json

import pytest

from tests.cli.command_line import Home


def test_check_says_what_would_be_served_and_who_says_so(home: Home) -> None:
    (home.path / "quicbaton.toml").write_text('folder = "files"\nworkers = 3\nport = 443\n')
    home.environment["QUICBATON_PORT"] = "8443"
    checked = home.json("check", "--host", "localhost")
    assert checked["event"] == "checked"
    assert checked["serves"].endswith("files")
    assert checked["workers"] == 3
    assert checked["options"] == {
        "folder": {"value": "files", "from": "quicbaton.toml"},
        "host": {"value": "localhost", "from": "command line"},
        "port": {"value": 8443, "from": "QUICBATON_PORT"},
        "workers": {"value": 3, "from": "quicbaton.toml"},
    }
    done = home.run("check")
    assert "with 3 workers" in done.stdout
    assert "port     8443   QUICBATON_PORT" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("no_such_program:app",), "application"),
        (("nothing.here",), "configuration"),
        ((), "usage"),
        (("files", "--workers", "0"), "configuration"),
        (("files", "--cert", "a.pem"), "configuration"),
        (("files", "--placement", "somewhere"), "placement"),
        (("files", "--limit-max-requests", "3"), "configuration"),
    ],
)
def test_check_fails_where_serve_would(home: Home, arguments: tuple[str, ...], code: str) -> None:
    checked, served = (home.run(command, *arguments, "--json") for command in ("check", "serve"))
    assert checked.returncode == served.returncode != 0
    failure = json.loads(checked.stderr)
    assert failure == json.loads(served.stderr)
    assert failure["error"] == code


def test_check_serves_nothing(home: Home) -> None:
    (home.path / "sited.py").write_text(
        "import pathlib\n"
        "started = []\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'lifespan'\n"
        "    for _ in range(2):\n"
        "        message = await receive()\n"
        "        started.append(message['type'])\n"
        "        await send({'type': message['type'] + '.complete'})\n"
        "    pathlib.Path('begun').write_text(' '.join(started))\n"
    )
    checked = home.json("check", "sited:app")
    assert checked["serves"] == "sited:app"
    assert (home.path / "begun").read_text() == "lifespan.startup lifespan.shutdown"
    assert "no servers" in home.run("ps").stdout
