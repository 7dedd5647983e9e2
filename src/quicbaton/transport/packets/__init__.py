"""Packets: protection, and which numbers came."""
