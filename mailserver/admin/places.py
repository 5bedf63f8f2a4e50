"""Paths of this machine in answers: shortened for operators whose business is not the whole server.

Not here: the answers (`entries`), who is such an operator (`roles`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

_PLACES = ("mailbox", "mailboxes", "kept_at", "set_aside")


def without_places(value: Any) -> Any:
    """An answer with the last part alone of every path of this machine: for those who see a part of it."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_places, value))
    if not isinstance(value, Struct):
        return value
    parts = msgspec.structs.asdict(value)
    return msgspec.structs.replace(
        value,
        **{name: _last(part) if name in _PLACES else without_places(part) for name, part in parts.items()},
    )


def _last(place: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    if isinstance(place, tuple):
        return tuple(one.rpartition("/")[2] for one in place)
    return None if place is None else place.rpartition("/")[2]
