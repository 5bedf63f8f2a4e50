"""What an operator does with the queue: look at it, hold, release, retry, drop.

Each works on an entry wherever it is: waiting, being read, at work. What is on its way to a host just now
cannot be called back; that attempt ends, and then the command holds.
Not here: words and phrases for it (`admin`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple
from weakref import WeakValueDictionary

from msgspec.structs import replace

from mailserver import maillog
from mailserver.pool import Pool
from mailserver.queue.entry import Entry, Unreadable, made_due
from mailserver.queue.round import Command
from mailserver.queue.runner import Runner
from mailserver.queue.spool import Missing, Spool


class State(Enum):
    """Where an entry stands."""

    WAITING = "waiting"  # due, or for its destination's turn
    ACTIVE = "active"
    DEFERRED = "deferred"
    HELD = "held"
    UNREADABLE = "unreadable"


class Listed(NamedTuple):
    """A line of the listing; `due` in UNIX time. `entry` is None where it cannot be read."""

    id: str
    state: State
    due: float
    entry: Entry | None


class Destination(NamedTuple):
    """A route with work, or one that failed; `blocked_until` in UNIX time, 0 if it is not left alone."""

    route: str
    running: int
    waiting: int
    parked: int
    blocked_until: float
    reason: str


class Desk:
    """The commands. All raise OSError and Busy; those with an id raise Missing.

    `troubles` tells, by relay, what only an operator can put right.
    """

    def __init__(
        self, runner: Runner, spool: Spool, pool: Pool, troubles: Callable[[], Mapping[str, str]]
    ) -> None:
        self._runner = runner
        self._troubles = troubles
        self._spool = spool
        self._pool = pool
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def listing(self, most: int, after: str = "") -> list[Listed]:
        """Up to `most` entries in the order of their ids, those after `after`."""
        found = await self._pool.run(self._list, most, after)
        return [
            Listed(entry_id, self._state(entry_id, due, entry), due, entry) for entry_id, due, entry in found
        ]

    async def show(self, entry_id: str) -> Entry:
        """One entry. Raises Unreadable, too."""
        round_ = self._runner.rounds.get(entry_id)
        return round_.entry if round_ else await self._pool.run(self._spool.load, entry_id)

    async def destinations(self) -> list[Destination]:
        """Where mail is going, and where it cannot go."""
        now = self._runner.clock()
        return [
            Destination(
                str(lane.route),
                lane.running,
                len(lane.waiting),
                len(lane.parked),
                lane.blocked_until if lane.is_blocked(now) else 0.0,
                lane.reason.reply if lane.failures and lane.reason else "",
            )
            for lane in self._runner.lanes
            if lane.failures or not lane.idle
        ]

    async def troubles(self) -> Mapping[str, str]:
        """What keeps relays from taking mail until an operator puts it right, by their names."""
        return self._troubles()

    async def retry(self, entry_id: str) -> bool:
        """Make an entry due now, whatever its schedule and its destination's troubles are; whether it is: a
        held one is not. Whoever runs the queue next finds it so. Raises Unreadable, too."""
        async with self._turn(entry_id):
            round_ = self._runner.rounds.get(entry_id)
            if round_ is not None:
                return round_.command is None
            with self._runner.intake.claim(entry_id):
                entry = await self._pool.run(self._spool.load, entry_id)
                if entry.held:
                    return False
                await self._runner.ledger.store(made_due(entry, self._runner.clock()))
            self._runner.intake.force([entry_id])
            return True

    async def hold(self, entry_id: str) -> None:
        """Keep an entry, and do not try it until it is released. Raises Unreadable, too."""
        async with self._turn(entry_id):
            if not self._command(entry_id, Command.HOLD):
                with self._runner.intake.claim(entry_id):
                    entry = await self._pool.run(self._spool.load, entry_id)
                    await self._runner.ledger.store(replace(entry, held=True))
            maillog.event("held", id=entry_id)

    async def release(self, entry_id: str) -> None:
        """Let a held entry go; it is due now. Raises Unreadable, too."""
        async with self._turn(entry_id):
            if not self._command(entry_id, None):
                with self._runner.intake.claim(entry_id):
                    entry = await self._pool.run(self._spool.load, entry_id)
                    due = made_due(entry, self._runner.clock())
                    await self._runner.ledger.store(replace(due, held=False))
                self._runner.intake.force([entry_id])
            maillog.event("released", id=entry_id)

    async def drop(self, entry_id: str) -> None:
        """Remove an entry; nobody is told."""
        async with self._turn(entry_id):
            if not self._command(entry_id, Command.DROP):
                with self._runner.intake.claim(entry_id):
                    await self._pool.run(self._spool.check, entry_id)
                    await self._runner.ledger.remove(entry_id)
                maillog.event("dropped", id=entry_id)

    def _turn(self, entry_id: str) -> asyncio.Lock:
        """Commands for one entry come one after the other, or one would write what it read before another
        changed it: a message held a moment ago would leave, one that was dropped come back."""
        return self._turns.setdefault(entry_id, asyncio.Lock())

    def _command(self, entry_id: str, command: Command | None) -> bool:
        """Tell it to an entry at work; whether it is."""
        round_ = self._runner.rounds.get(entry_id)
        if round_ is not None:
            round_.command = command
        return round_ is not None

    def _state(self, entry_id: str, due: float, entry: Entry | None) -> State:
        if entry_id in self._runner.rounds:
            return State.ACTIVE
        if entry is None:
            return State.UNREADABLE
        if entry.held:
            return State.HELD
        return State.DEFERRED if due > self._runner.clock() else State.WAITING

    def _list(self, most: int, after: str) -> list[tuple[str, float, Entry | None]]:
        listed: list[tuple[str, float, Entry | None]] = []
        for entry_id, due in heapq.nsmallest(most, self._spool.ids(after)):
            try:
                listed.append((entry_id, due, self._spool.load(entry_id)))
            except Missing:
                continue
            except (Unreadable, OSError):
                listed.append((entry_id, due, None))
        return listed
