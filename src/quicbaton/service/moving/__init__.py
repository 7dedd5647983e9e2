"""Takes connections off this process and puts them on: performs the decisions of `handoff`."""
