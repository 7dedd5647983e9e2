"""Benchmarks: `python -m bench NAME --json FILE`, or `make bench` for all of them."""
