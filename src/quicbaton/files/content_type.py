"""The media type of a file, from its name and first bytes."""

from __future__ import annotations

import mimetypes
from functools import lru_cache
from typing import Final

_UNKNOWN: Final = "application/octet-stream"
#: Types that the web needs. They take precedence over the machine's own list.
_TYPES: Final = {
    "avif": "image/avif",
    "css": "text/css",
    "csv": "text/csv",
    "html": "text/html",
    "htm": "text/html",
    "ico": "image/vnd.microsoft.icon",
    "js": "text/javascript",
    "json": "application/json",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "mp4": "video/mp4",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "wasm": "application/wasm",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff2": "font/woff2",
    "xml": "application/xml",
}
#: Compressed files that are sent as they are, without a content coding: the client asked for the
#: archive.
_COMPRESSED: Final = {
    "br": "application/x-brotli",
    "bz2": "application/x-bzip2",
    "gz": "application/gzip",
    "tgz": "application/gzip",
    "xz": "application/x-xz",
    "zst": "application/zstd",
}
#: Bytes of the file that are looked at, and the longest UTF-8 sequence that their end may cut.
SAMPLE_BYTES: Final = 4096
_MAX_CUT_BYTES: Final = 3


def content_type(name: str) -> str:
    """The media type by the name's ending, without a charset."""
    _, dot, ending = name.rpartition(".")
    return _type_of(ending.lower()) if dot else _UNKNOWN


def is_text(media_type: str) -> bool:
    """Whether the type takes a charset, which a browser would else have to guess."""
    return media_type.startswith("text/")


def with_charset(media_type: str, sample: bytes) -> str:
    """The type of a text that begins with `sample`, with its charset if that is UTF-8. A text in
    another charset may name it itself, and ours would take precedence: nothing is added."""
    return f"{media_type}; charset=utf-8" if _is_utf8(sample) else media_type


@lru_cache(maxsize=256)
def _type_of(ending: str) -> str:
    known = _COMPRESSED.get(ending) or _TYPES.get(ending)
    if known is not None:
        return known
    guessed, encoding = mimetypes.guess_type(f"file.{ending}")
    return guessed if guessed is not None and encoding is None else _UNKNOWN


def _is_utf8(sample: bytes) -> bool:
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(sample) - error.start
        return (
            len(sample) >= SAMPLE_BYTES
            and cut <= _MAX_CUT_BYTES
            and error.reason == "unexpected end of data"
        )
    return True
