"""What a process that was replaced lives on for, in words."""

from __future__ import annotations

from quicbaton.counted import counted
from quicbaton.service.peers import commands as c


def describe_absent(old: c.OldProcessInfo) -> list[str]:
    """A line for each kind of client that is absent, or has another owner."""
    lines = []
    if old.unconfirmed:
        have = "has not confirmed its" if old.unconfirmed == 1 else "have not confirmed their"
        lines.append(
            f"{counted(old.unconfirmed, 'connection')} {have} new ID, {old.seconds_left:.0f} s left"
        )
    if old.proxied:
        has = "has its" if old.proxied == 1 else "have their"
        what = counted(old.proxied, "proxied connection")
        lines.append(f"{what} {has} packets sent here until the end")
    if old.sent_for:
        what = counted(old.sent_for, "connection")
        lines.append(f"{what} for which another process sends, until the end")
    if old.handshakes:
        have = "has not ended" if old.handshakes == 1 else "have not ended"
        lines.append(f"{counted(old.handshakes, 'handshake')} {have}")
    return lines


def describe(old: c.OldProcessInfo) -> str:
    """All that it lives on for, in one line."""
    requests = []
    if old.requests:
        requests.append(f"requests of {counted(old.requests, 'connection')} run")
    return "; ".join(requests + describe_absent(old))
