"""Who is told what: reports that are owed become new messages from the null sender.

A failure goes to the sender; that of a message from the null sender, and a report nobody takes, goes to the
postmaster once, and asks that nothing be said about itself (NOTIFY=NEVER), so that it ends there. Where there
is no postmaster, it stays owed, and the message in the queue, until there is one.
Not here: what a report looks like (`mail.dsn`), how it is stored (the post).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from mailserver import maillog
from mailserver.mail import dsn
from mailserver.mail.address import Address
from mailserver.mail.dsn import Action, Fate, Report
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.reply import Reply
from mailserver.pool import Busy, Pool
from mailserver.queue.courier import Post
from mailserver.queue.entry import Entry, Queued, Status
from mailserver.queue.schedule import Schedule
from mailserver.queue.spool import Missing, Spool

RETURNED = 64 << 10  # octets up to which a message is returned whole (RET=FULL, or no RET)
AGAIN = 300.0  # seconds until a report nobody could take is tried again
NOBODY = 3600.0  # seconds until a postmaster is looked for again

# what is reported of a status, and the code where the remote gave none
_ACTIONS = {
    Status.PENDING: (Action.DELAYED, "4.0.0"),
    Status.DELIVERED: (Action.DELIVERED, "2.0.0"),
    Status.RELAYED: (Action.RELAYED, "2.0.0"),
    Status.EXPANDED: (Action.EXPANDED, "2.0.0"),
    Status.FAILED: (Action.FAILED, "5.0.0"),
}
_NO_POSTMASTER = Reply(550, "5.1.1", "No domain here has a postmaster")
_TROUBLE = Reply(451, "4.3.0", "Temporary trouble here")


class Reports:
    """Writes reports as `hostname`. `postmaster()` sends them, and hears of those nobody else can be told;
    None where there is none."""

    def __init__(
        self,
        spool: Spool,
        pool: Pool,
        post: Post,
        schedule: Schedule,
        hostname: str,
        postmaster: Callable[[], Address | None],
    ) -> None:
        self._spool = spool
        self._pool = pool
        self._post = post
        self._schedule = schedule
        self._hostname = hostname
        self._postmaster = postmaster

    def are_owed(self, entry: Entry, now: float) -> bool:
        """Whether somebody is to be told something now."""
        return any(queued.owes_report for queued in entry.recipients) or self._is_late(entry, now)

    async def send(self, entry: Entry, now: float) -> Entry:
        """Tell what is owed; the entry with a note of it, to be stored. What fails is owed still."""
        late = self._is_late(entry, now)
        subjects = [q for q in entry.recipients if q.owes_report or (late and _wants_delay(q))]
        misdirected = any(queued.status is Status.FAILED for queued in subjects)
        reply = Reply(250, "2.0.0", "")
        if entry.sender is not None and subjects:
            reply = await self._send(entry, subjects, now, entry.sender)
            misdirected = misdirected and reply.permanent
        if misdirected:
            reply = await self._send_to_postmaster(entry, subjects, now)
        if misdirected and reply.permanent:
            maillog.event("report-kept", id=entry.id, reply=reply)
            return replace(entry, report_due=now + NOBODY)
        if not reply.positive and not reply.permanent:
            return replace(entry, report_due=now + AGAIN)
        told = tuple(replace(q, reported=True) if q.owes_report else q for q in entry.recipients)
        return replace(entry, recipients=told, delay_told=entry.delay_told or late)

    def _is_late(self, entry: Entry, now: float) -> bool:
        waiting = any(_wants_delay(queued) for queued in entry.recipients)
        return (
            waiting
            and not entry.delay_told
            and entry.sender is not None
            and self._schedule.is_late(entry.arrived, now)
        )

    async def _send_to_postmaster(self, entry: Entry, subjects: list[Queued], now: float) -> Reply:
        postmaster = self._postmaster()
        if postmaster is None:
            return _NO_POSTMASTER
        return await self._send(entry, subjects, now, postmaster, misdirected=True)

    async def _send(
        self, entry: Entry, subjects: list[Queued], now: float, to: Address, *, misdirected: bool = False
    ) -> Reply:
        original, whole = await self._original(entry, subjects)
        retry_until = entry.arrived + self._schedule.lifetime
        report = Report(
            name=f"{entry.id}.{int(now)}{'.postmaster' if misdirected else ''}",
            hostname=self._hostname,
            sender=self._postmaster() or Address("postmaster", self._hostname),
            recipient=to,
            now=now,
            arrived=entry.arrived,
            fates=tuple(_fates(subjects, retry_until)),
            original=original,
            whole=whole,
            envid=entry.envid,
            smtputf8=entry.smtputf8,
            misdirected=misdirected,
        )
        letter = dsn.compose(report)
        recipient = Recipient(to, frozenset({"NEVER"}) if misdirected else frozenset())
        envelope = Envelope(None, (recipient,), body_8bit=letter.body_8bit, smtputf8=letter.smtputf8)
        reply = await self._hand_in(envelope, letter.content)
        maillog.count("queue.reports")
        actions = ",".join(sorted({fate.action.value for fate in report.fates}))
        maillog.event("report", id=entry.id, to=to, about=actions, report=report.name, reply=reply)
        return reply

    async def _hand_in(self, envelope: Envelope, content: bytes) -> Reply:
        try:
            return await self._post(envelope, content)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever it is, the report is owed still
            maillog.event("report-not-taken", error=type(error).__name__)
            return _TROUBLE

    async def _original(self, entry: Entry, subjects: list[Queued]) -> tuple[bytes, bool]:
        """What is returned of the message, and whether that is all of it (RFC 3461 §4.3, §6.2)."""
        failed = any(queued.status is Status.FAILED for queued in subjects)
        whole = failed and entry.ret != "HDRS" and entry.size <= RETURNED
        try:
            return await self._pool.run(self._spool.beginning, entry, RETURNED), whole
        except (Missing, OSError, Busy):
            return b"", False


def _wants_delay(queued: Queued) -> bool:
    wishes = queued.recipient.notify
    return queued.status is Status.PENDING and queued.turns > 0 and (not wishes or "DELAY" in wishes)


def _fates(subjects: list[Queued], retry_until: float) -> Iterator[Fate]:
    for queued in subjects:
        action, status = _ACTIONS[queued.status]
        yield Fate(
            recipient=queued.recipient,
            action=action,
            status=queued.enhanced or status,
            reply=queued.reply,
            remote=queued.remote,
            last_attempt=queued.last_attempt,
            retry_until=retry_until,
        )
