"""Other projects' checkers, run against ours: `python -m tests.conformance` (see `__main__`)."""
