"""Octets held for clients that do not take them, bounded over all. Not here: the bound of each (`Bounds`)."""

from __future__ import annotations

from typing import Protocol

MOST = 64 * 1024 * 1024


class Behind(Protocol):
    """A connection whose client has not taken what was sent."""

    @property
    def left(self) -> int:
        """Octets it has not taken."""

    def cut(self) -> None:
        """End it."""


class Backlog:
    """All who are behind. Above `most` octets in all, who has been behind longest is cut."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._behind: dict[Behind, None] = {}  # in the order in which they fell behind

    def add(self, one: Behind) -> None:
        self._behind[one] = None

    def discard(self, one: Behind) -> None:
        self._behind.pop(one, None)

    def check(self) -> None:
        """More is held: make sure that it is not too much."""
        total = sum(one.left for one in self._behind)
        for one in list(self._behind):
            if total <= self._most:
                return
            total -= one.left
            one.cut()
