"""One module per benchmark; see bench.benchmark."""
