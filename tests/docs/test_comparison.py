"""Figures of docs/comparison.md are those of bench/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).parents[2]


def result(name: str) -> Any:
    return json.loads((_ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_figure_that_names_a_benchmark_is_its_result() -> None:
    text = (_ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    state, handoff, asgi = result("state"), result("handoff"), result("asgi")
    blackout = handoff["blackout_us"]
    bulk = result("transport")["server_cpu_s_per_100mb"]
    handshakes = result("handshake")["handshake_cpu_us"]
    whole = result("asgi_reload")["whole"]
    steps = ("snapshot_us", "seal_us", "open_us", "resume_us")
    quicbaton, hypercorn, peregrine = (
        ", ".join(map(str, whole[name].values()))
        for name in ("quicbaton", "hypercorn", "peregrine")
    )
    for figure in (
        f"| {quicbaton} | {hypercorn} | {peregrine} |",
        f"{state['sealed_bytes_idle']:,} bytes; {sum(state[step] for step in steps):.0f} µs",
        f"p50 {blackout['p50']:.0f} µs, p99 {blackout['p99'] / 1000:.1f} ms",
        f"goodput {handoff['goodput_ratio']:.2f}",
        f"p50 {handoff['reconnect_ms']['p50']:.0f} ms, and the request",
        f"quicbaton {bulk['quicbaton']:.2f} (`bench transport`)",
        f"qh3 ({bulk['qh3']:.2f} s) and aioquic ({bulk['aioquic']:.2f} s)",
        f"{asgi['cpu_us_per_1kb_get']['peregrine']:.0f} µs of CPU",
        f"takes {asgi['cpu_us_per_1kb_get']['quicbaton']:.0f}",
        f"({handshakes['quicbaton'] / 1000:.1f} ms against {handshakes['qh3'] / 1000:.1f}",
    ):
        assert figure in text
