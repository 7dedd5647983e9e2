"""Tables that tests fill, to be shown at the end of a run."""

from __future__ import annotations

#: Title -> text.
TABLES: dict[str, str] = {}
