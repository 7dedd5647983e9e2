"""docs/troubleshooting.md names reasons, metrics, commands and options that exist."""

from __future__ import annotations

import re
import shlex

from quicbaton.cli.main import parser_of
from quicbaton.reasons import Reason
from quicbaton.service.metric_families import FAMILIES
from tests.docs.blocks import ROOT
from tests.docs.test_commands import StrictParser

_TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
_NAMES = re.findall(r"`([^`]+)`", _TEXT)
#: Words with an underscore that are a program's, not ours.
_PROGRAMS = {"export_state"}


def test_its_reasons_exist() -> None:
    named = {name for name in _NAMES if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}
    named -= _PROGRAMS | {name for name in named if name.startswith("quicbaton_")}
    assert named
    assert named <= {reason.value for reason in Reason}


def test_its_metrics_exist() -> None:
    named = {name for name in _NAMES if name.startswith("quicbaton_")}
    assert named
    assert named <= {f"{family.name}{end}" for family in FAMILIES for end in ("", "_total")}


def test_its_commands_and_options_exist() -> None:
    for name in _NAMES:
        words = shlex.split(name.removeprefix("sudo -u quicbaton "))
        if words[0] == "quicbaton" and len(words) > 1:
            parser_of(words[1], StrictParser).parse_args(words[1:])
    pages = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for option in {name for name in _NAMES if name.startswith("--")} - {"--cacert", "--json"}:
        assert f"`{option}" in pages, option
