"""Other processes: channels and links to them, the frames on these, and whether they live."""
