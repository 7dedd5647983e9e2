"""A UDP port and the connections behind it, as long as they stay in this process."""
