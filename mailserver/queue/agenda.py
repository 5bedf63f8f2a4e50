"""Which entry is due when: nothing but ids and times, so that a hundred thousand entries are no burden.

Not here: entries; they are read from the spool when they are due.
"""

from __future__ import annotations

import heapq

from mailserver.queue.entry import NEVER


class Agenda:
    """Ids with the time of their next attempt. An id is due once, however often it was put here."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._due

    def put(self, entry_id: str, due: float) -> None:
        """Make an entry due at a time, and at no other; NEVER: it is known, and waits for something else."""
        if self._due.get(entry_id) == due:
            return
        self._due[entry_id] = due
        if due != NEVER:
            heapq.heappush(self._heap, (due, entry_id))

    def discard(self, entry_id: str) -> None:
        self._due.pop(entry_id, None)

    def take(self, now: float, most: int) -> list[str]:
        """Take out what is due, the longest due first."""
        taken: list[str] = []
        while len(taken) < most and self.next <= now:
            entry_id = heapq.heappop(self._heap)[1]
            del self._due[entry_id]
            taken.append(entry_id)
        return taken

    @property
    def next(self) -> float:
        """When the next entry is due; NEVER if none is."""
        while self._heap:
            due, entry_id = self._heap[0]
            if self._due.get(entry_id) == due:
                return due
            heapq.heappop(self._heap)  # put again with another time since
        return NEVER
