"""A folder over HTTP/3: its content, the part of it that a request wants, and downloads that move.

folder          what a path names, and nothing outside
version         one state of a file, and whether another state still has what was promised
open_files      the descriptors behind downloads: one per file, bounded, passed along
downloads       bodies on their way
encodings, conditions, ranges, content_type, dates
                HTTP's own rules (RFC 9110), without a file or a clock
listing         a folder as a page for people
protocol        all of it as a protocol of `quicbaton.asyncio`
"""

from quicbaton.files.folder import Folder
from quicbaton.files.protocol import FileProtocol

__all__ = ["FileProtocol", "Folder"]
