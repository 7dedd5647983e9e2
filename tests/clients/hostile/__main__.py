"""Perform one attack: `python -m tests.clients.hostile PORT ATTACK`."""

from __future__ import annotations

import argparse

import msgspec

from tests.clients.hostile import ATTACKS, perform


def main() -> None:
    """Print its result as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--packets", type=int, default=100_000, help="at most so many (100,000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="and no longer than that (5)")
    options = parser.parse_args()
    result = perform(options.attack, options.port, options.packets, options.seconds)
    print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
