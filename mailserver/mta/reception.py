"""Taking a message in: content staged, then committed into every destination before anyone says 250.

Not here: the dialogue (`smtp.transaction`), the decision where it goes (`mta.routing`), the order of the
syncs (`durable.commit`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence

from mailserver import maillog
from mailserver.durable.commit import Committer, Destination, Full, Job, Staged
from mailserver.mail.envelope import Envelope
from mailserver.mail.reply import Reply
from mailserver.mailbox import quota as quotas
from mailserver.mailbox.arrival import Arrival
from mailserver.mailbox.maildir import unique_name
from mailserver.mta.dispatch import Success
from mailserver.mta.route import BUSY, OVER_QUOTA, TROUBLE, Local
from mailserver.pool import Busy, Pool
from mailserver.queue.departure import Departure
from mailserver.queue.entry import Entry, Status
from mailserver.queue.spool import Spool

SPILL = 256 * 1024  # octets of one message held in memory before they go to its file

ROOM_AGE = 0.25  # seconds for which the free space is believed

NO_SPACE = Reply(452, "4.3.1", "Insufficient system storage, try again later")

_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


Told = Callable[[list[Reply | None]], None]
"""Hears how a commit ended: for each place None if it has the message, else why not."""


class OverQuota(Exception):
    """The mailbox has no room for this message."""


class _Counted:
    """A mailbox with a quota. `strict`: it is asked for room once more when the message is placed.

    RCPT asked already; but sessions go side by side, and only here is one message placed after another, so
    a mailbox is not filled beyond its quota by many messages at once. Counted at once for the same reason.
    """

    def __init__(self, place: Local, arrival: Arrival, size: int, *, strict: bool) -> None:
        self.directory = arrival.directory
        self._place = place
        self._arrival = arrival
        self._size = size
        self._strict = strict
        self._counted = False

    def open(self) -> int:
        return self._arrival.open()

    def link(self, source: str, directory: int, *, last: bool) -> bool:
        if self._strict and quotas.is_over(self._place.maildir, self._place.quota, self._size):
            raise OverQuota
        covered = self._arrival.link(source, directory, last=last)
        self._counted = True
        quotas.add(self._place.maildir, self._size, 1)
        return covered

    def unlink(self) -> None:
        self._arrival.unlink()
        if self._counted:
            self._counted = False
            quotas.add(self._place.maildir, -self._size, -1)


def _destination(message: Message, wire_size: int, place: Local, *, strict: bool) -> Destination:
    """Where one copy goes. With one reply for several mailboxes, a full one (it had room when RCPT asked)
    takes one message too many, for refusing would keep the mail from the others."""
    size = message.staged.size
    arrival = place.maildir.arrival(message.unique, size, wire_size)
    return _Counted(place, arrival, size, strict=strict) if any(place.quota) else arrival


class Message:
    """A message on its way in: `id` names it in the log, in its Received field and in the queue.

    It is the first two parts of its name in mailboxes: ids are in the order of their times, as texts too.
    """

    def __init__(self, staging: str) -> None:
        self.unique = unique_name()
        seconds, _, rest = self.unique.partition(".")
        self.id = seconds + rest.partition(".")[0]
        self.staged = Staged(f"{staging}/{self.unique}")
        self.spilled = False


class _Waiting(Job):
    """A message being committed: `told`, then `after` are called with the outcome."""

    def __init__(
        self,
        message: Message,
        destinations: Sequence[Destination],
        told: Told,
        after: Told,
        *,
        together: bool,
    ) -> None:
        super().__init__(message.staged, destinations, _report, together=together)
        self.message = message
        self.told = told
        self.after = after
        self.loop = asyncio.get_running_loop()


def _report(jobs: list[_Waiting]) -> None:
    """From the committing thread: wake the loop, once for all, which takes longer than what it has to do."""
    jobs[0].loop.call_soon_threadsafe(_settle, jobs)


def _settle(jobs: list[_Waiting]) -> None:
    """Let all sessions reply before anything else is done: a crash in between is mail that comes twice.

    Each by itself: a fault of ours is that message's alone.
    """
    loop = jobs[0].loop
    for job in jobs:
        outcome = [None if error is None else _explain(error, job.message) for error in job.errors]
        try:
            job.told(outcome)
        except Exception as error:
            loop.call_exception_handler({"message": "nobody was told of a commit", "exception": error})
        loop.call_soon(job.after, outcome)


class Reception:
    """Stages and commits messages. `staging` lies on the file system of the mailboxes and of `spool`.

    `queued` is called with each entry that came into the queue, when it is durable.
    """

    def __init__(self, staging: str, committer: Committer, pool: Pool, spool: Spool) -> None:
        self.queued: Callable[[Entry], object] = lambda entry: None
        self._staging = staging
        self._committer = committer
        self._pool = pool
        self._spool = spool
        self._room = 0
        self._look_again = 0.0
        self._discarding: set[asyncio.Future[None]] = set()

    def begin(self) -> Message:
        return Message(self._staging)

    def has_room(self, size: int) -> bool:
        """Whether the file system takes a message of one and a half times `size` octets (Postfix's rule)."""
        now = time.monotonic()
        if now >= self._look_again:
            status = os.statvfs(self._staging)
            self._room = status.f_bavail * status.f_frsize if status.f_favail else 0
            self._look_again = now + ROOM_AGE
        return self._room > size + size // 2

    async def spill(self, message: Message) -> Reply | None:
        """Move what is held in memory to the message's file; the reason where that cannot be done."""
        message.spilled = True
        try:
            return await self._pool.run(message.staged.write)
        except Busy:
            return BUSY
        except OSError as error:
            return _explain(error, message)

    def abandon(self, message: Message) -> None:
        """Forget a message nobody was told about, off the loop; a file left behind goes at the next start."""
        if not message.spilled:
            return  # it is nowhere but here
        task = asyncio.ensure_future(self._discard(message.staged))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _discard(self, staged: Staged) -> None:
        try:
            await self._pool.run(staged.discard)
        except Busy:
            staged.discard()

    def commit(
        self,
        message: Message,
        wire_size: int,
        mailboxes: Sequence[Local],
        departures: Sequence[Envelope] = (),
        success: Success | None = None,
        *,
        together: bool,
        user: str = "",
        told: Told,
        settled: Told = lambda _: None,
    ) -> None:
        """Make the message durable in each mailbox, and in the queue for each envelope of `departures`.

        With `together` all have it or none; then `success` is reported, if they have it. `user` is who
        submitted it. `told` is called with the outcome, later and once: when it hears None for a place, a
        crash at any later instant does not lose the message there. `settled` is called with the same soon
        afterwards, when all were told whose messages were committed together.
        """
        places = len(mailboxes) + len(departures)
        strict = places == 1 or not together
        destinations: list[Destination] = [
            _destination(message, wire_size, place, strict=strict) for place in mailboxes
        ]
        if not departures and success is None:
            self._submit(_Waiting(message, destinations, told, settled, together=together))
            return
        assert together or success is None, "a report for all says nothing of each"
        leaving = self._departures(message, wire_size, departures, success, user, shared=bool(mailboxes))

        def after(errors: list[Reply | None]) -> None:
            for departure, error in zip(leaving, errors[len(mailboxes) :], strict=True):
                if error is None:
                    self._announce(message, departure)
            settled(errors[:places])

        destinations += leaving
        self._submit(
            _Waiting(message, destinations, lambda errors: told(errors[:places]), after, together=together)
        )

    def _departures(
        self,
        message: Message,
        wire_size: int,
        envelopes: Sequence[Envelope],
        success: Success | None,
        user: str,
        *,
        shared: bool,
    ) -> list[Departure]:
        """The queue's entries; the first has the message's id, the others begin with it.

        `shared`: the content goes into mailboxes, too.
        """
        entries: list[tuple[Envelope, Sequence[Status]]] = [(envelope, ()) for envelope in envelopes]
        if success is not None:
            entries.append(success)
        size, spool = message.staged.size, self._spool
        found = [
            spool.destination(
                message.id if number == 1 else f"{message.id}N{number}",
                envelope,
                size=size,
                wire_size=wire_size,
                user=user,
                settled=settled,
                shared=shared or len(entries) > 1,
            )
            for number, (envelope, settled) in enumerate(entries, 1)
        ]
        for departure in found:
            message.staged.append(departure.tail)
        return found

    def _submit(self, job: _Waiting) -> None:
        try:
            self._committer.submit(job)
        except Full:
            self.abandon(job.message)
            busy: list[Reply | None] = [BUSY] * len(job.destinations)
            job.loop.call_soon(job.told, busy)
            job.loop.call_soon(job.after, busy)

    def _announce(self, message: Message, departure: Departure) -> None:
        entry = departure.entry
        self.queued(entry)
        if all(queued.status is not Status.PENDING for queued in entry.recipients):
            return  # nothing leaves; the report will be in the log
        maillog.count("messages.queued")
        maillog.event(
            "queued",
            id=entry.id,
            message=message.id,
            sender=f"<{entry.sender or ''}>",
            to=",".join(str(queued.recipient.address) for queued in entry.recipients[:10]),
            recipients=len(entry.recipients),
            user=entry.user or None,
        )


def _explain(error: Exception, message: Message) -> Reply:
    """The reply for a failed commit. All of it is our trouble, so 4xx; details go to the log alone."""
    if isinstance(error, OverQuota):
        return OVER_QUOTA
    code = errno.errorcode.get(error.errno or 0, "?") if isinstance(error, OSError) else "?"
    maillog.count("reception.failed")
    maillog.event("not-stored", id=message.id, error=type(error).__name__, code=code)
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return NO_SPACE
    return TROUBLE
