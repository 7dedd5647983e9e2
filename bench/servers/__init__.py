"""The servers that are measured: one program each, the same application on top."""
