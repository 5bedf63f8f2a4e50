"""What is due, found and read: the way of an entry from the disk to work.

Of entries that wait only id and time are in memory. Here is also known who may not begin work now, for the
operator has a hand on it, and who is to be tried whatever the schedule says.
Not here: the work (`queue.runner`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mailserver import maillog
from mailserver.pool import Busy, Pool
from mailserver.queue.agenda import Agenda
from mailserver.queue.entry import HELD, Entry
from mailserver.queue.schedule import Schedule
from mailserver.queue.settling import without_content
from mailserver.queue.spool import Missing, Spool

FRESH = 1000  # new entries kept in memory until they are at work; further ones are read from the disk
READ = 64  # entries read in one go
SLICE = 5000  # entries planned in one go after a scan, so that the loop is not held up
AHEAD = 3600.0  # seconds by which a new entry goes before those that were tried already
UNREAD = 300.0  # seconds until an entry that could not be read is looked at again


class Found(NamedTuple):
    """An entry to begin with. `forced`: in any case. `damaged`: its content is not what came, to be held."""

    entry: Entry
    forced: bool = False
    damaged: bool = False


class Intake:
    """`at_work`: the ids of entries at work, which are none of its business."""

    def __init__(
        self,
        spool: Spool,
        pool: Pool,
        at_work: Container[str],
        clock: Callable[[], float],
        schedule: Schedule,
    ) -> None:
        self.agenda = Agenda()
        self.wake = asyncio.Event()
        self._spool = spool
        self._pool = pool
        self._at_work = at_work
        self._clock = clock
        self._schedule = schedule
        self._reading: set[str] = set()
        self._claimed: set[str] = set()
        self._forced: set[str] = set()
        self._fresh: dict[str, Entry] = {}

    @property
    def next(self) -> float:
        """When the next entry is due."""
        return self.agenda.next

    def submit(self, entry_id: str, entry: Entry | None = None) -> None:
        """An entry may be begun now, if it is not known already. It does not queue up behind a backlog.

        `entry`: as it came in, where that is known; it is not read from the disk unless somebody changed it.
        """
        if not self._knows(entry_id):
            if entry is not None and len(self._fresh) < FRESH:
                self._fresh[entry_id] = entry
            self.agenda.put(entry_id, self._clock() - AHEAD)
            self.wake.set()

    def force(self, ids: Iterable[str]) -> None:
        """Try entries now, whatever their schedule and their destinations' troubles are."""
        for entry_id in ids:
            if entry_id not in self._at_work:
                self._forced.add(entry_id)
                if entry_id not in self._reading and entry_id not in self._claimed:
                    self.agenda.put(entry_id, 0.0)
        self.wake.set()

    @contextmanager
    def claim(self, entry_id: str) -> Iterator[None]:
        """Keep an entry that is not at work from it, while somebody changes it; then read it again."""
        self._claimed.add(entry_id)
        self.agenda.discard(entry_id)
        self._fresh.pop(entry_id, None)
        self._reading.discard(entry_id)  # what is read just now may be old
        try:
            yield
        finally:
            self._claimed.discard(entry_id)
            self.submit(entry_id)

    async def scan(self, now: float) -> None:
        """Find entries that are not known yet. Raises OSError, Busy."""
        found = await self._pool.run(lambda: list(self._spool.ids()))
        earliest = now - AHEAD / 2  # however long the server was off, new mail goes first
        latest = now + self._schedule.longest  # later ones were planned by a clock that was set back since
        for start in range(0, len(found), SLICE):
            for entry_id, due in found[start : start + SLICE]:
                if due < HELD and not self._knows(entry_id):
                    self.agenda.put(entry_id, min(max(due, earliest), latest))
            await asyncio.sleep(0)

    async def read(self, now: float, most: int) -> list[Found]:
        """Some entries that are due and not held."""
        ids = self.agenda.take(now, min(most, READ))
        self._reading.update(ids)
        found = self._known(ids)
        if unknown := [entry_id for entry_id in ids if entry_id not in found]:
            try:
                found |= await self._pool.run(self._load, unknown)
            except Busy as error:
                found |= dict.fromkeys(unknown, error)
        return [item for entry_id in ids if (item := self._judge(entry_id, found[entry_id], now)) is not None]

    def _judge(self, entry_id: str, result: Found | Exception, now: float) -> Found | None:
        if entry_id not in self._reading:
            return None
        self._reading.discard(entry_id)
        forced = entry_id in self._forced
        self._forced.discard(entry_id)
        if isinstance(result, Found):
            return None if result.entry.held else result._replace(forced=forced)
        if not isinstance(result, Missing):
            maillog.event("queue-unreadable", id=entry_id, error=type(result).__name__)
            self.agenda.put(entry_id, now + (1.0 if isinstance(result, Busy) else UNREAD))
        return None

    def _known(self, ids: list[str]) -> dict[str, Found | Exception]:
        """Those that came just now, if the disk has them as they came: a look at each, and no thread."""
        entries = [entry for entry_id in ids if (entry := self._fresh.pop(entry_id, None)) is not None]
        return {entry.id: Found(entry) for entry in entries if self._spool.is_as_it_came(entry)}

    def _load(self, ids: list[str]) -> dict[str, Found | Exception]:
        found: dict[str, Found | Exception] = {}
        for entry_id in ids:
            try:
                found[entry_id] = self._whole(self._spool.load(entry_id))
            except Exception as error:  # whatever is wrong with one, the others are read
                found[entry_id] = error
        return found

    def _whole(self, entry: Entry) -> Found:
        """The entry; if somebody took its content away, with nobody left to carry it to."""
        size = self._spool.content_size(entry)
        if size is not None:
            if size != entry.size and not entry.held:
                maillog.event("content-damaged", id=entry.id, octets=size, expected=entry.size)
            return Found(entry, damaged=size != entry.size)
        self._spool.check(entry.id)  # it may just have been settled
        maillog.event("content-missing", id=entry.id)
        return Found(without_content(entry, self._schedule, self._clock()))

    def _knows(self, entry_id: str) -> bool:
        own = (self.agenda, self._at_work, self._reading, self._claimed)
        return any(entry_id in known for known in own)
