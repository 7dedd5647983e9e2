"""The looks of a listing: HTML and CSS in one document, which loads nothing and runs nothing."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c1d1f; --faint: #6b6f76; --line: #e6e6e3; --hover: #f1f3f5;
  --link: #0b5cad; --folder: #c98a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #e4e6e8; --faint: #9aa0a8; --line: #2a2d31; --hover: #202327;
    --link: #7db8f5; --folder: #e2b04a;
  }
}
* { box-sizing: border-box; }
body > svg { position: absolute; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; border-radius: 3px; }
h1 { margin: 0 0 1rem; font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
h1 span { color: var(--faint); font-weight: 400; padding: 0 .25em; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .5rem .5rem; text-align: left; border-bottom: 1px solid var(--line); }
th { font-size: .8125rem; font-weight: 500; white-space: nowrap; }
th a { color: var(--faint); }
th[aria-sort] a { color: var(--ink); }
td:first-child, th:first-child { padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
tbody tr:hover { background: var(--hover); }
.name { width: 100%; overflow-wrap: anywhere; }
td.name a { display: flex; gap: .6rem; align-items: flex-start; color: inherit; }
td svg { flex: none; width: 1.15rem; height: 1.15rem; margin-top: .18rem; color: var(--faint); }
.folder .name a { font-weight: 500; color: var(--link); }
.folder .name svg { color: var(--folder); }
.size, .date { white-space: nowrap; color: var(--faint); font-variant-numeric: tabular-nums; }
td.size, th.size { text-align: right; }
.date { padding-left: 1.5rem; }
p, nav { margin: 1rem 0 0; color: var(--faint); font-size: .875rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .875rem 2rem; }
  table, thead, tbody { display: block; }
  tr { display: grid; grid-template-columns: 1fr auto; border-bottom: 1px solid var(--line); }
  thead tr { grid-template-columns: auto auto 1fr; column-gap: 1.25rem; }
  th, td { border: 0; padding: 0; }
  th { padding: .5rem 0; }
  th.date { padding: .5rem 0; text-align: right; }
  .name { width: auto; }
  td.name a { padding: .65rem 0 0; }
  td.size { padding: .65rem 0 0 1rem; }
  td.date { padding: 0 0 .65rem 1.75rem; font-size: .8125rem; }
}
@media (prefers-reduced-motion: no-preference) { tbody tr { transition: background .1s; } }
"""

#: Allows nothing but this style, and the empty icon that keeps browsers from asking for one. HTML
#: that a file's name smuggled in would not be carried out.
CONTENT_SECURITY_POLICY: Final = (
    b"default-src 'none'; style-src 'sha256-"
    + b64encode(sha256(STYLE.encode()).digest())
    + b"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_ICONS: Final = (
    '<svg width="0" height="0" aria-hidden="true" focusable="false"><defs>'
    '<symbol id="d" viewBox="0 0 24 24"><path fill="currentColor" d="M3 6.5A2.5 2.5 0 0 1 5.5 4h4'
    "l2.2 2.4h6.8A2.5 2.5 0 0 1 21 8.9v8.6a2.5 2.5 0 0 1-2.5 2.5h-13A2.5 2.5 0 0 1 3 17.5z"
    '"/></symbol>'
    '<symbol id="f" viewBox="0 0 24 24"><path fill="none" stroke="currentColor" '
    'stroke-width="1.6" stroke-linejoin="round" d="M6 3.5h8l4.5 4.5v12.5H6zM14 3.5V8h4.5"/>'
    "</symbol></defs></svg>"
)

ICON_OF_FOLDER: Final = '<svg aria-hidden="true"><use href="#d"/></svg>'
ICON_OF_FILE: Final = '<svg aria-hidden="true"><use href="#f"/></svg>'


def page(title: str, heading: str, body: str) -> str:
    """A whole document. All three arguments are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{_ICONS}\n<h1>{heading}</h1>\n"
        f"{body}\n</body>\n</html>\n"
    )
