"""Which congestion control connections get: `serve --congestion`, a program's word, `serve()`."""

from __future__ import annotations

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.errors import ConfigurationError
from quicbaton.handshake.congestion_choice import choose, take_choice
from tests.cli.command_line import Home, check_whole

_PROGRAM = "from quicbaton.asyncio import QuicConnectionProtocol as Protocol\n"


def configuration(algorithm: str | None = None) -> QuicConfiguration:
    made = QuicConfiguration(is_client=False)
    if algorithm is not None:
        made.congestion_control_algorithm = algorithm
    return made


@pytest.mark.parametrize(
    ("argument", "configured", "chosen"),
    [
        (None, None, "cubic"),
        (None, "cubic", "cubic"),
        (None, "bbr", "bbr"),
        ("bbr", None, "bbr"),
        ("reno", None, "reno"),
        ("reno", "bbr", "reno"),
    ],
)
def test_the_argument_counts_then_the_configuration_unless_that_is_aioquics_default(
    argument: str | None, configured: str | None, chosen: str
) -> None:
    assert choose(argument, configuration(configured)) == chosen


def test_an_unknown_algorithm_is_refused_before_anything_is_served() -> None:
    with pytest.raises(ConfigurationError, match="one of reno, cubic, bbr, not 'vegas'"):
        choose("vegas", configuration())
    with pytest.raises(ConfigurationError, match="vegas"):
        take_choice(configuration("vegas"))


def test_aioquic_is_left_with_an_algorithm_that_it_knows() -> None:
    chosen = configuration("bbr")
    assert take_choice(chosen) == "bbr"
    assert chosen.congestion_control_algorithm == "reno"


@pytest.mark.parametrize(
    ("source", "option", "chosen"),
    [
        ("", "bbr", "bbr"),
        ("def configure(c): c.congestion_control_algorithm = 'bbr'\n", "cubic", "bbr"),
        ("def configure(c): c.congestion_control_algorithm = 'reno'\n", "bbr", "reno"),
    ],
)
def test_a_program_overrides_the_option(home: Home, source: str, option: str, chosen: str) -> None:
    # Another name each time: these commands run in this process, which keeps its modules.
    module = f"chooses_{chosen}_over_{option}"
    (home.path / f"{module}.py").write_text(source + _PROGRAM)
    checked = home.json("check", f"{module}:Protocol", "--congestion", option)
    assert checked["congestion_control"] == chosen


def test_a_program_that_chooses_what_there_is_not_is_refused(home: Home) -> None:
    source = "def configure(c): c.congestion_control_algorithm = 'vegas'\n"
    (home.path / "chooses_vegas.py").write_text(source + _PROGRAM)
    done = home.run("check", "chooses_vegas:Protocol")
    assert done.returncode != 0
    assert "congestion control must be one of reno, cubic, bbr, not 'vegas'" in done.stderr


@pytest.mark.process
def test_a_download_under_bbr_moves_to_a_server_of_another_choice(home: Home) -> None:
    content = home.write("file.bin", 3_000_000)
    first = home.serve("--congestion", "bbr")
    client = home.download(first, "file.bin", 400_000)
    client.wait_for_bytes(1)
    name = home.connection(first)["connection"]
    second = home.serve("--join", first.control)
    home.json("handoff", first.control, name, "--to", second.control)
    client.wait_for_bytes(1)
    baton = home.path / "connection.baton"
    home.json("save", second.control, name, baton)
    shown = home.json("inspect", baton)["content"]["connection"]["congestion"]
    assert shown["algorithm"] == "bbr"
    assert shown["bbr"]["round_count"] > 0
    home.json("resume", baton, "--to", first.control)
    check_whole(client, content)
