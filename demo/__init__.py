"""`make demo`: a live download handed from process to process, and a picture of it."""
