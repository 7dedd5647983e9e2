"""What takes a connection off this process and puts it on: performs what `handoff` decides."""
