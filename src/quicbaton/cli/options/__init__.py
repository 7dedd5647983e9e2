"""The options of each command: a struct each, which imports nothing that runs the command."""
