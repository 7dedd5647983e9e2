"""One server process that takes commands: ties the endpoint, its handoffs and its peers."""
