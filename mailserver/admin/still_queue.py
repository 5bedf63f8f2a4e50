"""The queue while no server runs it: commands change what is on the disk, for the next start to find.

Not here: the queue at work (`queue.desk`); seeing to it that no server starts meanwhile (the caller).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from mailserver import maillog
from mailserver.queue.desk import Destination, Listed, State
from mailserver.queue.entry import Entry, Unreadable, made_due
from mailserver.queue.spool import Missing, Spool


class StillQueue:
    """A `requests.Desk`. `clock` gives UNIX time."""

    def __init__(self, spool: Spool, clock: Callable[[], float] = time.time) -> None:
        self._spool = spool
        self._clock = clock

    async def listing(self, most: int, after: str = "") -> list[Listed]:
        try:
            names = heapq.nsmallest(most, (found for found in self._spool.ids() if found[0] > after))
        except FileNotFoundError:  # there never was a message
            return []
        return [self._listed(entry_id, due) for entry_id, due in names]

    async def destinations(self) -> list[Destination]:
        """Nothing goes anywhere."""
        return []

    async def show(self, entry_id: str) -> Entry:
        return self._spool.load(entry_id)

    async def troubles(self) -> Mapping[str, str]:
        """None are known: nobody speaks with a relay."""
        return {}

    async def retry(self, entry_id: str) -> bool:
        """Have it tried as soon as the queue runs; whether it will be: not a held one."""
        entry = self._spool.load(entry_id)
        if not entry.held:
            self._spool.store(made_due(entry, self._clock()))
        return not entry.held

    async def hold(self, entry_id: str) -> None:
        self._spool.store(replace(self._spool.load(entry_id), held=True))
        maillog.event("held", id=entry_id)

    async def release(self, entry_id: str) -> None:
        entry = self._spool.load(entry_id)
        self._spool.store(replace(made_due(entry, self._clock()), held=False))
        maillog.event("released", id=entry_id)

    async def drop(self, entry_id: str) -> None:
        self._spool.check(entry_id)
        self._spool.remove(entry_id)
        maillog.event("dropped", id=entry_id)

    def _listed(self, entry_id: str, due: float) -> Listed:
        try:
            entry = self._spool.load(entry_id)
        except (Missing, Unreadable, OSError):
            return Listed(entry_id, State.UNREADABLE, due, None)
        state = State.HELD if entry.held else State.DEFERRED if due > self._clock() else State.WAITING
        return Listed(entry_id, state, due, entry)
