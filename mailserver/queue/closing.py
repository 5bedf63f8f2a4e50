"""What follows an attempt: the outcome in the log, on the disk and, where it is owed, in a report.

In this order, so that a crash at any instant repeats the last step at most: a delivery whose outcome was not
stored yet, a report that was not noted yet.
Not here: who is tried when (`queue.runner`), what an outcome means (`queue.settling`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from mailserver import maillog
from mailserver.pool import Busy
from mailserver.queue.courier import Outcome, Route
from mailserver.queue.entry import Status
from mailserver.queue.ledger import Ledger
from mailserver.queue.reports import Reports
from mailserver.queue.round import Command, Round
from mailserver.queue.schedule import Schedule
from mailserver.queue.settling import settle

AGAIN = 5.0  # seconds until a change the disk refused is tried again


class Closing:
    """Ends jobs and rounds. `clock` gives UNIX time, `chance` 0 to 1."""

    def __init__(
        self,
        ledger: Ledger,
        reports: Reports,
        schedule: Schedule,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._reports = reports
        self._schedule = schedule
        self._clock = clock
        self._chance = chance
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on write down what is known, once, and begin nothing."""
        self._stopping.set()

    def note(self, round_: Round, route: Route, indices: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """Take outcomes into a round's entry, and log them."""
        now = self._clock()
        round_.entry = settle(round_.entry, indices, outcomes, self._schedule, now, self._chance())
        for index, outcome in zip(indices, outcomes, strict=True):
            queued = round_.entry.recipients[index]
            maillog.count(f"queue.{outcome.kind.value}")
            maillog.event(
                "delivery",
                id=round_.entry.id,
                to=queued.recipient.address,
                route=route,
                outcome=outcome.kind.value,
                remote=queued.remote or None,
                reply=queued.reply,
                attempt=queued.attempts if outcome.tried else None,
                age=round(now - round_.entry.arrived, 1),
            )

    async def save(self, round_: Round) -> None:
        """Make the disk agree with a round's entry."""
        async with round_.lock:
            await self._save(round_)

    async def close(self, round_: Round) -> None:
        """No job is left: report, write down, obey the operator."""
        async with round_.lock:
            now = self._clock()
            quiet = self._stopping.is_set() or round_.command is not None
            if not quiet and self._reports.are_owed(round_.entry, now):
                await self._save(round_)
                round_.entry = await self._reports.send(round_.entry, now)
            command = round_.command
            await self._obey(round_)
            while round_.command is not command:  # the operator spoke meanwhile
                command = round_.command
                await self._obey(round_)
        if round_.is_gone:
            self._log_end(round_)

    async def _obey(self, round_: Round) -> None:
        held = round_.command is Command.HOLD
        if round_.entry.held != held:
            round_.entry = replace(round_.entry, held=held)
        await self._save(round_)

    async def _save(self, round_: Round) -> None:
        """However often it takes. While the disk refuses, what a remote host took is known in memory alone:
        a crash makes it a duplicate."""
        while round_.entry is not round_.stored or round_.is_gone:
            entry = round_.entry
            try:
                if round_.is_gone:
                    return await self._ledger.remove(entry.id)
                await self._ledger.store(entry)
                round_.stored = entry
            except (OSError, Busy) as error:
                maillog.count("queue.not-stored")
                maillog.event("queue-not-stored", id=entry.id, error=type(error).__name__)
                if self._stopping.is_set():
                    return
                await self._pause()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), AGAIN)
        except TimeoutError:
            return

    def _log_end(self, round_: Round) -> None:
        entry = round_.entry
        if round_.command is Command.DROP:
            return maillog.event("dropped", id=entry.id)
        failed = sum(queued.status is Status.FAILED for queued in entry.recipients)
        age = round(self._clock() - entry.arrived, 1)
        maillog.event(
            "settled", id=entry.id, delivered=len(entry.recipients) - failed, failed=failed, age=age
        )
