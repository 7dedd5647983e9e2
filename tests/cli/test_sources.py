"""Options from a file, from the environment and from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from quicbaton.cli.main import parse
from quicbaton.cli.options.argument import declared
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.errors import ConfigurationError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, path: Path = Path("quicbaton.toml")) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def served(*arguments: str) -> ServeOptions:
    return cast(ServeOptions, parse(["serve", *arguments])[0])


def test_a_file_here_gives_the_options_that_nobody_else_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        'folder = "main:app"\nport = 443\nworkers = 4\ndeadline = 30\n'
        'access-log = false\nreload_dir = ["templates"]\nmetrics = 9100\nlog-level = "debug"'
    )
    options = served()
    assert options.program.folder == Path("main:app")
    assert (options.port, options.workers, options.deadline) == (443, 4, 30.0)
    assert not options.logs.access_log
    assert options.watch.reload_dir == (Path("templates"),)
    assert options.metrics == ("127.0.0.1", 9100)
    monkeypatch.setenv("QUICBATON_PORT", "4434")
    monkeypatch.setenv("QUICBATON_LOG_LEVEL", "error")
    options = served("--log-level", "info")
    assert (options.port, options.logs.log_level) == (4434, "info")


def test_every_option_of_serve_can_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICBATON_APP", "main:app")
    monkeypatch.setenv("QUICBATON_RETRY", "yes")
    monkeypatch.setenv("QUICBATON_ACCESS_LOG", "0")
    monkeypatch.setenv("QUICBATON_RELOAD_DIR", "a:b")
    monkeypatch.setenv("QUICBATON_METRICS", "[::1]:9100")
    monkeypatch.setenv("QUICBATON_SLEEP_AFTER", "2.5")
    options = served()
    assert options.program.app == "main:app"
    assert options.retry
    assert not options.logs.access_log
    assert options.watch.reload_dir == (Path("a"), Path("b"))
    assert options.metrics == ("::1", 9100)
    assert options.program.sleep_after == 2.5


def test_a_named_file_s_paths_are_its_neighbours() -> None:
    write('folder = "site"\ncert = "tls/cert.pem"\nkey = "/etc/key.pem"', Path("etc/site.toml"))
    options = served("--config", "etc/site.toml")
    assert options.program.folder == Path("etc/site")
    assert options.tls.cert == (Path("etc/tls/cert.pem"),)
    assert options.tls.key == (Path("/etc/key.pem"),)


def test_what_excludes_an_option_replaces_it() -> None:
    write('app = "main:app"')
    options = served("site")
    assert (options.program.folder, options.program.app) == (Path("site"), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 443", "quicbaton.toml: there is no option 'prot': port?"),
        ("port = 70000", "quicbaton.toml: port: expected a port from 0 to 65535, got '70000'"),
        ('workers = "many"', "quicbaton.toml: workers: Expected `int | null`, got `str`"),
        ('log-level = "loud"', "quicbaton.toml: log-level: Invalid enum value 'loud'"),
        ("[tls]\ncert = 'a'", "there is no option 'tls'"),
        ("[port]\na = 1", "each option has a line of its own"),
        ("grace = 1\ntimeout-graceful-shutdown = 2", "is there twice, as grace, too"),
        ("folder = 'a'\napp = 'b:c'", "folder and app exclude each other"),
        ("port = ", "quicbaton.toml: Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, message: str) -> None:
    write(text)
    with pytest.raises(ConfigurationError) as caught:
        served("site")
    assert message in str(caught.value)
    assert caught.value.code == "usage"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("QUICBATON_RETRY", "perhaps", "QUICBATON_RETRY=perhaps: expected yes or no"),
        ("QUICBATON_WORKERS", "two", "QUICBATON_WORKERS=two: "),
        ("QUICBATON_PORT", "udp://10.0.0.1:443", "set enableServiceLinks: false"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        served("site")
    assert message in str(caught.value)


def test_a_named_file_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        served("site", "--config", "none.toml")


def test_nothing_to_serve_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError) as caught:
        served()
    assert "DIR or MODULE:NAME or --app is missing" in str(caught.value)
    assert caught.value.code == "usage"


def test_a_file_has_a_name_for_each_option() -> None:
    options = list(declared(ServeOptions))
    names = [name for option in options for name in option.names]
    assert len(set(names)) == len(names)
    assert all(option.names for option in options)


def test_a_file_may_say_all_that_the_command_line_can(tmp_path: Path) -> None:
    """Each option from the file is what it is from the command line."""
    examples = {int: "1", float: "1.5", bool: "true"}
    for one in declared(ServeOptions):
        if one.name == "config":
            continue
        value = examples.get(one.kind)
        text = {"metrics": '"9100"', "port": "1", "log-format": '"json"', "log-level": '"debug"'}
        text["client-cert"] = '"optional"'
        text["congestion"] = '"bbr"'
        if value is None:
            kinds = getattr(one.kind, "__args__", ())
            value = text.get(one.name) or next(
                (examples[kind] for kind in kinds if kind in examples), '"x"'
            )
        write(f"{one.name} = {value}\n" + ("" if one.name in ("folder", "app") else 'app="m:x"\n'))
        assert parse(["serve"])[0] != ServeOptions(), one.name
