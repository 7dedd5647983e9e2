"""Checkers that others wrote, run against ours: `python -m tests.conformance` (see `__main__`)."""
