"""What runs a service: processes that share a port and hand their connections on."""
