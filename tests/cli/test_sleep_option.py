"""`serve --sleep-after`: which connections sleep, with and without the option."""

import asyncio
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio import connect
from quicbaton.cli.options.serve import ProgramOptions
from quicbaton.cli.program import sleep_after_s
from tests.cli.command_line import Home, wait_for


@pytest.mark.process
async def test_a_silent_client_s_connection_is_listed_as_asleep(home: Home) -> None:
    server = home.serve("--sleep-after", "0.1")
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"])
    configuration.load_verify_locations(str(home.ca))

    def state() -> str:
        return home.json("ps", server.control)["connections"][0]["state"]  # type: ignore[no-any-return]

    async with connect("127.0.0.1", server.port, configuration=configuration) as client:
        await client.ping()
        await asyncio.to_thread(wait_for, state, lambda found: found == "asleep")
        await client.ping()
        assert await asyncio.to_thread(state) == "open"


def test_a_folder_sleeps_by_default_and_a_program_only_when_asked() -> None:
    folder, program = Path("files"), Path("chat:Chat")
    assert sleep_after_s(ProgramOptions(folder=folder)) == 10
    assert sleep_after_s(ProgramOptions(app="chat:Chat")) == 0
    assert sleep_after_s(ProgramOptions(folder=program)) == 0
    assert sleep_after_s(ProgramOptions(app="chat:Chat", sleep_after=30.0)) == 30
    assert sleep_after_s(ProgramOptions(folder=folder, sleep_after=0.0)) == 0
