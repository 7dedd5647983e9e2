"""Makes the documentation's site from the Markdown files of `docs`: `python -m docs.builder`."""
