"""Asking a running server something, for a program without an event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.asking import ask

_Frame = TypeVar("_Frame", bound=c.Frame)


def ask_now(path: Path, command: c.Frame, answer: type[_Frame]) -> _Frame:
    """`ask`, run to its end."""
    return asyncio.run(ask(path, command, answer))
