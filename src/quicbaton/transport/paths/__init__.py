"""Network paths, their MTU, and connection IDs."""
