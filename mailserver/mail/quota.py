"""How much a mailbox may hold, as a value. Counting what it does hold is `mailbox.quota`."""

from __future__ import annotations

import re
from typing import NamedTuple

_SIZE = re.compile(r"(\d{1,15})\s*([KMGT]?)i?B?", re.IGNORECASE)
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Quota(NamedTuple):
    """Limits of a mailbox: `storage` in octets and `messages` as a count; 0 means no limit."""

    storage: int = 0
    messages: int = 0


def parse_size(text: str | int) -> int:
    """Octets from `123`, `100K`, `50M`, `1G`, `2T` (powers of 1024). Raises ValueError."""
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise ValueError("expected a size such as 500K, 50M or 1G")
    return int(match.group(1)) * _FACTOR[match.group(2).upper()]
