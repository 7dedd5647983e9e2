"""Packets: protection, and the numbers that were received."""
