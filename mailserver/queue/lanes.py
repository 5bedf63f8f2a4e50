"""Turns: which destination is served next, how many connections it gets, and when it is left alone.

Every route has a lane. Lanes take turns, so none waits behind another's crowd; a lane has its own bound
and pace, and a destination that could not be reached is left alone for a time that grows, whoever's
message found that out. Half of all places are kept for destinations that have answered, so that any
number of dead ones leaves the others room. Pure; time and chance are arguments.
Not here: entries and couriers (`queue.runner`).
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mailserver.queue.courier import Outcome, Pace, Route
from mailserver.queue.entry import NEVER

J = TypeVar("J")

NEW = 5  # connections at once for a destination that was not tried yet
LEAVE_ALONE = 60.0  # seconds after the first failure, doubled by each further one
LEAVE_ALONE_MOST = 900.0
ROOM = 2  # jobs that wait in a lane for each connection it may have; more wait on the disk
KEPT = 1000  # idle lanes whose failures are remembered


class Lane(Generic[J]):
    """One destination. `reason` is what was said when it failed last; `parked` are ids of entries that wait
    for room here, in order."""

    def __init__(self, route: Route, pace: Pace) -> None:
        self.route = route
        self.pace = pace
        self.waiting: deque[J] = deque()
        self.parked: dict[str, None] = {}
        self.running = 0
        self.allowed = min(NEW, pace.connections)
        self.proven = False
        self.failures = 0
        self.blocked_until = 0.0
        self.reason: Outcome | None = None
        self.next_start = 0.0
        self.timed = False
        self.last_answer = -NEVER

    @property
    def has_room(self) -> bool:
        return len(self.waiting) < ROOM * self.pace.connections

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.parked or self.running)

    def is_blocked(self, now: float) -> bool:
        return now < self.blocked_until


class Lanes(Generic[J]):
    """All lanes, for at most `places` deliveries at once."""

    def __init__(self, places: int, pace: Callable[[Route], Pace]) -> None:
        self.places = places
        self.running = 0
        self._pace = pace
        self._lanes: dict[Route, Lane[J]] = {}
        self._idle: OrderedDict[Route, Lane[J]] = OrderedDict()
        # lanes that could start a job now, in the order of their turns
        self._proven: OrderedDict[Route, Lane[J]] = OrderedDict()
        self._unproven: OrderedDict[Route, Lane[J]] = OrderedDict()
        self._unproven_running = 0
        self._timers: list[tuple[float, int, Lane[J]]] = []
        self._numbers = itertools.count()

    def __iter__(self) -> Iterator[Lane[J]]:
        return iter(list(self._lanes.values()))

    def lane(self, route: Route) -> Lane[J]:
        """The lane of a route, as it is or new."""
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = Lane(route, self._pace(route))
            self._retire(lane)
        return lane

    def put(self, lane: Lane[J], job: J, now: float) -> None:
        """Let a job wait for its turn."""
        self._idle.pop(lane.route, None)
        lane.waiting.append(job)
        self._consider(lane, now)

    def park(self, lane: Lane[J], entry_id: str) -> None:
        """Remember an entry for which the lane has no room now."""
        self._idle.pop(lane.route, None)
        lane.parked[entry_id] = None

    def take(self, now: float) -> tuple[Lane[J], J] | None:
        """The next job to start, and its lane; None when there is none to start now."""
        while self._timers and self._timers[0][0] <= now:
            lane = heapq.heappop(self._timers)[2]
            lane.timed = False
            self._consider(lane, now)
        if self.running >= self.places:
            return None
        if self._unproven and self._unproven_running < max(1, self.places // 2):
            return self._start(self._unproven.popitem(last=False)[1], now)
        if self._proven:
            return self._start(self._proven.popitem(last=False)[1], now)
        return None

    @property
    def next(self) -> float:
        """When a lane that goes slowly may start its next job; NEVER if there is none."""
        return self._timers[0][0] if self._timers else NEVER

    def answered(self, lane: Lane[J], now: float) -> None:
        """A job has ended, and the destination talked with us."""
        self._leave(lane)
        lane.failures, lane.blocked_until, lane.last_answer = 0, 0.0, now
        lane.allowed = min(lane.allowed + 1, lane.pace.connections)
        self._prove(lane, True)
        self._consider(lane, now)

    def failed(self, lane: Lane[J], reason: Outcome, started: float, now: float, chance: float) -> None:
        """A job has ended, for the destination could not be reached.

        If it answered others meanwhile, it wants fewer of us; else it is left alone for a while.
        """
        self._leave(lane)
        lane.reason = reason
        if lane.last_answer >= started:
            lane.allowed = max(1, lane.allowed // 2)
        elif not lane.is_blocked(now):
            wait = min(LEAVE_ALONE * 2 ** min(lane.failures, 10), LEAVE_ALONE_MOST)
            lane.failures += 1
            lane.blocked_until = now + wait * (0.75 + chance / 2)
            lane.allowed = 1
            self._prove(lane, False)
        self._consider(lane, now)

    def withdrawn(self, lane: Lane[J], now: float) -> None:
        """A job has ended that says nothing about the destination."""
        self._leave(lane)
        self._consider(lane, now)

    def unblock(self, lane: Lane[J]) -> None:
        """Try a destination again at once: the operator says so."""
        lane.blocked_until = 0.0

    def empty(self, lane: Lane[J]) -> list[J]:
        """Take out all jobs that wait in a lane."""
        jobs = list(lane.waiting)
        lane.waiting.clear()
        self._proven.pop(lane.route, None)
        self._unproven.pop(lane.route, None)
        self._retire(lane)
        return jobs

    def unpark(self, lane: Lane[J], now: float) -> list[str]:
        """Take out the parked entries the lane has room for: all of them, if it is left alone now."""
        room = max(0, ROOM * lane.pace.connections - len(lane.waiting))
        ids = list(itertools.islice(lane.parked, None if lane.is_blocked(now) else room))
        for entry_id in ids:
            del lane.parked[entry_id]
        self._retire(lane)
        return ids

    def _start(self, lane: Lane[J], now: float) -> tuple[Lane[J], J]:
        job = lane.waiting.popleft()
        lane.running += 1
        self.running += 1
        self._unproven_running += not lane.proven
        if lane.pace.rate > 0:
            lane.next_start = max(now, lane.next_start) + 1 / lane.pace.rate
        self._consider(lane, now)
        return lane, job

    def _leave(self, lane: Lane[J]) -> None:
        lane.running -= 1
        self.running -= 1
        self._unproven_running -= not lane.proven

    def _prove(self, lane: Lane[J], proven: bool) -> None:
        if lane.proven != proven:
            lane.proven = proven
            self._unproven_running += -lane.running if proven else lane.running

    def _consider(self, lane: Lane[J], now: float) -> None:
        """Give a lane its place among those that could start a job now; it keeps the one it has."""
        ready, other = (self._proven, self._unproven) if lane.proven else (self._unproven, self._proven)
        other.pop(lane.route, None)
        if lane.waiting and lane.running < lane.allowed:
            if lane.next_start <= now:
                ready.setdefault(lane.route, lane)
                return
            if not lane.timed:
                lane.timed = True
                heapq.heappush(self._timers, (lane.next_start, next(self._numbers), lane))
        ready.pop(lane.route, None)
        self._retire(lane)

    def _retire(self, lane: Lane[J]) -> None:
        """Remember idle lanes, the latest of them."""
        if lane.idle and not lane.timed:
            self._idle[lane.route] = lane
            self._idle.move_to_end(lane.route)
            if len(self._idle) > KEPT:
                self._lanes.pop(self._idle.popitem(last=False)[0])
