"""The page about commands and options is up to date, and lacks none."""

from __future__ import annotations

from quicbaton.cli.main import COMMANDS, parser_of
from quicbaton.cli.options.argument import declared
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.options.sources import Sources, variable_of
from tests.commands_page import PAGE, commands, page


def test_the_page_of_commands_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make commands`"


def test_every_command_and_every_option_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = {path[0] for path, _ in commands(parser_of(""))}
    assert shown == {name for names in COMMANDS.values() for name in names}
    for path, parser in commands(parser_of("")):
        assert f"\n## quicbaton {' '.join(path)}\n" in text
        for one in declared(parser.get_default("command")[0]):
            assert all(flag in text for flag in one.flags)


def test_the_variable_of_an_option_is_the_one_that_is_read(monkeypatch) -> None:
    """By trying: each variable on the page of a plain text is found in the environment."""
    for one in declared(ServeOptions):
        if one.kind == str | None:
            variable = variable_of(one, has_file=True)
            with monkeypatch.context() as patched:
                patched.setenv(variable, "some text")
                assert Sources(ServeOptions, {}).given()[one.path].origin == variable
