"""The queue at work: entries are read when they are due, carried along their routes, settled, reported.

One entry goes round: read from the spool, its due recipients grouped by route, each group a job that waits
for its turn in a lane; what became of them is stored as it comes in; when no job is left, reports are sent
and the entry is gone, or due again. Of all others only id and time are in memory.
Waits are measured by the loop; `clock` gives UNIX time.
Not here: turns (`queue.lanes`), the end of a round (`queue.closing`), the operator's commands (`queue.desk`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

import msgspec

from mailserver import maillog
from mailserver.pool import Busy, Pool
from mailserver.queue.closing import Closing
from mailserver.queue.courier import Delivery, Kind, Outcome, Router
from mailserver.queue.entry import NEVER, Entry
from mailserver.queue.intake import Found, Intake
from mailserver.queue.lanes import Lane, Lanes
from mailserver.queue.ledger import Ledger
from mailserver.queue.reports import Reports
from mailserver.queue.round import Command, Job, Round, by_route, jobs_of
from mailserver.queue.schedule import HOUR, Schedule
from mailserver.queue.settling import TOO_LONG, TROUBLE, left_alone
from mailserver.queue.spool import Spool

INSTANT = 1e-5  # seconds: what UNIX time can tell apart as a float, and the clock of a loop as well


class Limits(msgspec.Struct, frozen=True):
    """`deliveries` at once; `entries` at work, so in memory; seconds: `patience` for one delivery, whatever
    its courier does, and what its octets take at `rate` in a second (the courier's own limit comes first);
    `rescan` between looks for entries that another process put into the spool."""

    deliveries: int = 100
    entries: int = 1000
    patience: float = 2 * HOUR
    rate: int = 500
    rescan: float = 60.0


def steady_clock() -> Callable[[], float]:
    """A clock that gives UNIX time and does not leap while the process runs."""
    begun = time.time() - time.monotonic()
    return lambda: begun + time.monotonic()


class Runner:
    """Runs the queue of `spool`. All that blocks goes through `pool`."""

    def __init__(
        self,
        spool: Spool,
        pool: Pool,
        router: Router,
        reports: Reports,
        clock: Callable[[], float],
        *,
        schedule: Schedule | None = None,
        limits: Limits | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.rounds: dict[str, Round] = {}
        self.limits = limits or Limits()
        self.lanes: Lanes[Job] = Lanes(self.limits.deliveries, router.pace)
        self.ledger = Ledger(spool, pool)
        self.clock = clock
        self._schedule = schedule or Schedule()
        self._closing = Closing(self.ledger, reports, self._schedule, clock, chance)
        self.intake = Intake(spool, pool, self.rounds, clock, self._schedule)
        self._spool = spool
        self._router = router
        self._chance = chance
        self._stopping = asyncio.Event()
        self._next_scan = 0.0
        self._asleep_until = 0.0
        self._reader: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._carrying: dict[asyncio.Task[None], Job] = {}
        self._broken_off: set[asyncio.Task[None]] = set()
        self._sent: set[Job] = set()  # those whose host may have taken the message

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; what the spool holds is found in the background."""
        self._reader = asyncio.create_task(self._run())

    async def stop(self, grace: float) -> None:
        """Begin nothing new, and leave what is under way to the disk.

        What may have been taken already has `grace` seconds for its answer, or it would come twice. All else
        is broken off at once: a host that stalls must not keep the queue from who runs it next.
        """
        self._stopping.set()
        self._closing.stop()
        self.intake.wake.set()
        if self._reader is not None:
            await self._reader
        for lane in self.lanes:
            for job in self.lanes.empty(lane):
                self._leave(job)
        self._break_off(lambda job: job not in self._sent)
        if answers := [task for task, job in self._carrying.items() if job in self._sent]:
            await asyncio.wait(answers, timeout=grace)
        self._break_off(lambda job: True)
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self.ledger.close()

    def _break_off(self, which: Callable[[Job], bool]) -> None:
        for task, job in self._carrying.items():
            if which(job) and task not in self._broken_off:
                self._broken_off.add(task)
                task.cancel()

    def submit(self, entry_id: str, entry: Entry | None = None) -> None:
        """A new entry is in the spool, with this content where that is known: it is begun at once."""
        self.intake.submit(entry_id, entry)

    # -- beginning -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._step()
            except (Busy, OSError) as error:
                maillog.event("queue-not-scanned", error=type(error).__name__)
                await self._pause(1.0)
            except Exception as error:  # whatever it is, the mail of all others must go on
                _trouble(error)
                await self._pause(1.0)

    async def _step(self) -> None:
        self.intake.wake.clear()
        self._dispatch()
        now = self.clock()
        if now >= self._next_scan:
            self._next_scan = now + self.limits.rescan
            return await self.intake.scan(now)
        free = self.limits.entries - len(self.rounds)
        if free > 0 and self.intake.next <= now:
            for found in await self.intake.read(now, free):
                self._admit(found, now)
            return
        self._asleep_until = min(self._next_scan, self.lanes.next, self.intake.next if free > 0 else NEVER)
        wait = max(INSTANT, self._asleep_until - now)
        timer = asyncio.get_running_loop().call_later(wait, self.intake.wake.set)
        await self.intake.wake.wait()
        timer.cancel()

    def _admit(self, found: Found, now: float) -> None:
        """Begin a round of work for an entry; a forced one is due whatever its schedule says."""
        round_ = self.rounds[found.entry.id] = Round(found.entry)
        if found.damaged:
            round_.command = Command.HOLD
            return self._spawn(self._close(round_))
        horizon = -1.0 if found.forced else self._schedule.longest
        for route, indices in by_route(found.entry, self._router, now, horizon).items():
            lane = self.lanes.lane(route)
            if found.forced:
                self.lanes.unblock(lane)
            self._assign(round_, lane, indices, now)
        if not round_.jobs:
            self._spawn(self._close(round_))

    def _assign(self, round_: Round, lane: Lane[Job], indices: list[int], now: float) -> None:
        if lane.is_blocked(now):
            self._closing.note(round_, lane.route, indices, [left_alone(lane.reason)] * len(indices))
        elif not lane.has_room:
            self.lanes.park(lane, round_.entry.id)
            round_.parked.update(indices)
        else:
            for job in jobs_of(round_, lane.route, indices):
                round_.jobs += 1
                self.lanes.put(lane, job, now)

    # -- carrying --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Start all jobs that may start now."""
        now = self.clock()
        while not self._stopping.is_set() and (found := self.lanes.take(now)) is not None:
            self._spawn(self._carry(*found))
        if self.lanes.next < self._asleep_until:
            self.intake.wake.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """After a fault of ours its entry stays at work: nobody gets it again before the next start."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _trouble(error)

    async def _carry(self, lane: Lane[Job], job: Job) -> None:
        started = self.clock()
        outcomes = None if job.round.command else await self._attempt(job)
        self._release(lane, outcomes, started)
        self._dispatch()
        if outcomes is not None:
            self._closing.note(job.round, job.route, job.indices, outcomes)
            if job.round.jobs > 1 and any(outcome.kind is not Kind.DEFERRED for outcome in outcomes):
                await self._closing.save(job.round)
        if self._is_last(job):
            await self._close(job.round)

    def _release(self, lane: Lane[Job], outcomes: Sequence[Outcome] | None, started: float) -> None:
        """A delivery has ended: what its lane learns from it, and who is next there."""
        now = self.clock()
        if outcomes is None or outcomes[0] is TROUBLE:
            self.lanes.withdrawn(lane, now)
        elif outcomes[0].unreachable:
            self.lanes.failed(lane, outcomes[0], started, now, self._chance())
        else:
            self.lanes.answered(lane, now)
        if lane.is_blocked(now):
            for job in self.lanes.empty(lane):
                self._closing.note(
                    job.round, job.route, job.indices, [left_alone(lane.reason)] * len(job.indices)
                )
                self._leave(job)
        for entry_id in self.lanes.unpark(lane, now):
            self._unpark(entry_id)

    def _unpark(self, entry_id: str) -> None:
        if entry_id in self.rounds:
            self.rounds[entry_id].parked.clear()
        elif entry_id in self.intake.agenda:
            self.intake.agenda.put(entry_id, 0.0)  # it has waited: before all others
        self.intake.wake.set()

    async def _attempt(self, job: Job) -> Sequence[Outcome] | None:
        """Have a courier try; None where the delivery was broken off because the queue stops."""
        count = len(job.indices)
        patience = self.limits.patience + job.round.entry.wire_size / self.limits.rate
        task = asyncio.current_task()
        assert task is not None
        self._carrying[task] = job
        try:
            async with asyncio.timeout(patience):
                outcomes = await self._router.courier_for(job.route).deliver(self._delivery(job))
        except TimeoutError:
            return [TOO_LONG] * count
        except asyncio.CancelledError:
            if task not in self._broken_off:
                raise
            task.uncancel()
            maillog.event("handed-back", id=job.round.entry.id, route=job.route)
            return None
        except Exception as error:  # a fault of ours is never the message's
            maillog.count("queue.courier-failed")
            maillog.event("courier-failed", id=job.round.entry.id, error=type(error).__name__)
            return [TROUBLE] * count
        finally:
            del self._carrying[task]
            self._sent.discard(job)
            self._broken_off.discard(task)
        return outcomes if len(outcomes) == count else [TROUBLE] * count

    def _delivery(self, job: Job) -> Delivery:
        entry = job.round.entry
        return Delivery(
            id=entry.id,
            route=job.route,
            sender=entry.sender,
            recipients=tuple(entry.recipients[index].recipient for index in job.indices),
            size=entry.wire_size,
            at_rest=entry.size,
            content=partial(self._spool.open_content, entry),
            body_8bit=entry.body_8bit,
            smtputf8=entry.smtputf8,
            ret=entry.ret,
            envid=entry.envid,
            sent=partial(self._sent.add, job),
        )

    def _is_last(self, job: Job) -> bool:
        """A job has ended; whether that ends the round."""
        job.round.jobs -= 1
        return not job.round.jobs

    def _leave(self, job: Job) -> None:
        """A job that waited will not be done; the last one closes the round."""
        if self._is_last(job):
            self._spawn(self._close(job.round))

    async def _close(self, round_: Round) -> None:
        await self._closing.close(round_)
        if len(self.rounds) >= self.limits.entries:
            self.intake.wake.set()
        del self.rounds[round_.entry.id]
        if round_.is_gone:
            self.intake.agenda.discard(round_.entry.id)
        elif not round_.entry.held:
            self.intake.agenda.put(round_.entry.id, round_.due)
            self.intake.wake.set()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


def _trouble(error: BaseException) -> None:
    maillog.count("queue.trouble")
    maillog.event("queue-trouble", error=type(error).__name__)
