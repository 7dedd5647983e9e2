"""What runs a service: processes that share a port and hand over their connections."""
