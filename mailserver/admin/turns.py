"""Turns at work: of one operator so many operations are under way, whatever connections he has; more wait.

So the pool of the administration is shared by names, and nobody's calls stand before everybody's.
Not here: the pool, which has places of its own (`pool`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mailserver.admin.roles import Operator, Role
from mailserver.pool import Busy

AT_WORK = 4  # operations of an operator at a time
OF_USER = 2  # of a mail user
WAITING = 64  # operations of one name that wait for their turn


class _Line:
    def __init__(self, at_work: int) -> None:
        self.places = asyncio.Semaphore(at_work)
        self.there = 0


class Turns:
    """Lines by name. Belongs to one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(self, operator: Operator) -> AsyncIterator[None]:
        """Wait for one's turn, and have it. Raises Busy: too many wait."""
        at_work = OF_USER if operator.role is Role.USER else AT_WORK
        line = self._lines.setdefault(operator.name, _Line(at_work))
        if line.there >= at_work + WAITING:
            raise Busy(operator.name)
        line.there += 1
        try:
            async with line.places:
                yield
        finally:
            line.there -= 1
            if not line.there:
                del self._lines[operator.name]
