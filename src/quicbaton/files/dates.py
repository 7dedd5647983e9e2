"""HTTP dates (RFC 9110 §5.6.7): whole seconds since 1970, as text and back."""

from __future__ import annotations

import calendar
import time
from email.utils import parsedate_tz
from functools import lru_cache
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# fmt: off
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)
# fmt: on
#: Longer than any of the three forms.
_MAX_CHARS: Final = 64


@lru_cache(maxsize=256)
def http_date(seconds: int) -> bytes:
    """The preferred form, as `Sun, 06 Nov 1994 08:49:37 GMT`."""
    at = time.gmtime(seconds)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    ).encode("ascii")


def parse_date(value: bytes) -> int | None:
    """Any of the three forms, the two obsolete ones included; None for what is no date."""
    if len(value) > _MAX_CHARS:
        return None
    try:
        parsed = parsedate_tz(value.decode("ascii"))
        if parsed is None:
            return None
        return calendar.timegm((*parsed[:6], 0, 0, 0)) - (parsed[9] or 0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
