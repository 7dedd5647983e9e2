"""Other processes: channels and links to them, what is said there, and whether they live."""
