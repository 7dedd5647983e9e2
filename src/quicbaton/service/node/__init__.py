"""One server process that can be commanded: ties the endpoint, its handoffs and its peers."""
