"""Several worker processes behind one UDP port, and the process that keeps them alive."""
