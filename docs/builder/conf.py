"""Sphinx' configuration. `docs.builder.staging` puts it beside the sources."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "quicbaton"
copyright = "the authors of quicbaton"
version = release = version_of("quicbaton")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# As GitHub makes them, for links such as operating.md#memory.
myst_heading_anchors = 6
highlight_language = "none"

# Our docstrings write code as Markdown does, in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"quicbaton {release}"
# Nothing is fetched from elsewhere, neither here nor by readers.
html_copy_source = False
html_show_sphinx = False
