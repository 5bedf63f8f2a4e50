"""One entry while work is done for it, and the jobs of that work. Values and bookkeeping, no I/O.

Not here: the work (`queue.runner`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from mailserver.queue.courier import Route, Router
from mailserver.queue.entry import NEVER, Entry, Status

TOGETHER = 100  # recipients of one delivery: what every host takes (RFC 5321 §4.5.3.1.8)


class Command(Enum):
    """What the operator wants of an entry that is at work just now."""

    HOLD = "hold"
    DROP = "drop"


class Round:
    """An entry that was read and is at work. `stored` is what the disk has of it.

    `jobs`: how many are waiting or running. `parked`: recipients for whom their lane has no room yet.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.stored = entry
        self.jobs = 0
        self.parked: set[int] = set()
        self.command: Command | None = None
        self.lock = asyncio.Lock()  # one change of the disk after the other

    @property
    def is_gone(self) -> bool:
        """Whether the entry has no place on the disk any more."""
        return self.command is Command.DROP or self.entry.settled

    @property
    def due(self) -> float:
        """When the entry is to be read again; NEVER: when a lane has room for what is parked."""
        waiting = [
            queued.due
            for index, queued in enumerate(self.entry.recipients)
            if queued.status is Status.PENDING and index not in self.parked
        ]
        if any(queued.owes_report for queued in self.entry.recipients):
            waiting.append(self.entry.report_due)
        return min(waiting, default=NEVER)


class Job(NamedTuple):
    """Some recipients of one entry that go the same way."""

    round: Round
    route: Route
    indices: tuple[int, ...]


def by_route(entry: Entry, router: Router, now: float, horizon: float) -> dict[Route, list[int]]:
    """The recipients that are due, by their route. What is due later than the schedule can have meant
    (`horizon` seconds) was planned by a clock that has been set back since, and is due, too."""
    routes: dict[Route, list[int]] = {}
    for index, queued in enumerate(entry.recipients):
        if queued.status is Status.PENDING and not now < queued.due <= now + horizon:
            routes.setdefault(router.route(entry.sender, queued.recipient.address), []).append(index)
    return routes


def jobs_of(round_: Round, route: Route, indices: list[int]) -> Iterator[Job]:
    """The recipients of one route, as many together as every host takes."""
    for start in range(0, len(indices), TOGETHER):
        yield Job(round_, route, tuple(indices[start : start + TOGETHER]))
