"""The matrix for people: on the terminal, and as docs/clients.md."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

_PAGE = """\
# Clients

Unmodified clients, each through everything that can happen to its connection. `make clients` \
fetches them, runs the matrix and writes this page; CI runs it, and a client that is missing \
fails there.

Each client talks to `quicbaton serve` with two workers and an ASGI program. Meanwhile its \
connection changes hands. A cell is `ok` if every response came whole: status, length and SHA-256 \
as the program made them, of uploads as the client made them. The move is checked twice: the \
service lists the connection at its new owner under its old name and has accepted no other, and \
each response names the process that made it. Some clients cannot connect without a request. \
They move `before the first request` behind a NAT that holds back their packets after the \
handshake until the connection has moved. `–` means that the client has no such feature (see \
below).

{matrix}

| what happens | |
|---|---|
{scenes}

{gaps}| client | version of this run | QUIC by |
|---|---|---|
{versions}
"""


class Cell(msgspec.Struct):
    """A client's outcome in a scene: `ok`, `gap` (it has no such feature) or `failed`."""

    outcome: str
    detail: str = ""
    seconds: float = 0.0


class Row(msgspec.Struct):
    """A client, with the reason why it cannot run here, if there is one."""

    name: str
    engine: str
    version: str = ""
    missing: str = ""
    cells: dict[str, Cell] = msgspec.field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return any(cell.outcome == "failed" for cell in self.cells.values())


def print_row(row: Row) -> None:
    print(f"{row.name}: {row.version}{row.missing}", flush=True)
    for title, cell in row.cells.items():
        seconds = f" {cell.seconds:.1f} s" if cell.outcome == "ok" else ""
        detail = f"  {cell.detail}" if cell.detail else ""
        print(f"  {cell.outcome:6} {title}{seconds}{detail}", flush=True)


def write_page(path: Path, rows: list[Row], scenes: Mapping[str, Callable[..., Any]]) -> None:
    """Write the page. Nothing in it changes from run to run but outcomes and versions."""
    lines = [f"| | {' | '.join(scenes)} |", f"|---{'|---' * len(scenes)}|"]
    for row in rows:
        cells = [_sign(row, title) for title in scenes]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    told = [f"| {title} | {_doc(scene)} |" for title, scene in scenes.items()]
    page = _PAGE.format(
        matrix="\n".join(lines),
        scenes="\n".join(told),
        gaps=_gaps(rows),
        versions="\n".join(f"| {row.name} | {row.version} | {row.engine} |" for row in rows),
    )
    path.write_text(page, encoding="utf-8")


def _sign(row: Row, title: str) -> str:
    cell = row.cells.get(title)
    if cell is None:
        return "missing"
    return {"ok": "ok", "gap": "–", "failed": "**failed**"}[cell.outcome]


def _doc(scene: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(scene) or "").split())


def _gaps(rows: Iterable[Row]) -> str:
    """The gaps of all clients, grouped by scene and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for title, cell in row.cells.items():
            if cell.outcome == "gap":
                found.setdefault((title, cell.detail), []).append(row.name)
    lines = [
        f"| {', '.join(names)} | {title} | {reason} |" for (title, reason), names in found.items()
    ]
    if not lines:
        return ""
    return "| no such feature | | |\n|---|---|---|\n" + "\n".join(lines) + "\n\n"
