"""`make demo`: a live download handed from process to process, and what it looked like."""
