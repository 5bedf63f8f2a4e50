"""What an attempt means for an entry: each recipient settled, or due again. Pure.

Not here: telling anybody (`queue.reports`), writing it down (`queue.ledger`).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mailserver.queue.courier import Kind, Outcome
from mailserver.queue.entry import Entry, Queued, Status, clean
from mailserver.queue.schedule import Schedule

TROUBLE = Outcome(Kind.DEFERRED, 0, "4.3.0", "Temporary trouble here")
TOO_LONG = Outcome(Kind.DEFERRED, 0, "4.4.2", "The delivery took too long")
NO_CONTENT = Outcome(Kind.FAILED, 0, "5.3.0", "The content of the message was lost on the sending host")


def settle(
    entry: Entry,
    indices: Sequence[int],
    outcomes: Sequence[Outcome],
    schedule: Schedule,
    now: float,
    chance: float,
) -> Entry:
    """The entry after an attempt for the recipients at `indices`, with an outcome for each."""
    recipients = list(entry.recipients)
    for index, outcome in zip(indices, outcomes, strict=True):
        recipients[index] = _after(entry, recipients[index], outcome, schedule, now, chance)
    return replace(entry, recipients=tuple(recipients))


def without_content(entry: Entry, schedule: Schedule, now: float) -> Entry:
    """The entry of a message whose content is gone: nobody gets it any more."""
    pending = [index for index, queued in enumerate(entry.recipients) if queued.status is Status.PENDING]
    return settle(entry, pending, [NO_CONTENT] * len(pending), schedule, now, 0.5)


def left_alone(reason: Outcome | None) -> Outcome:
    """What a message hears that was not tried because its destination just failed for another one."""
    return (reason or TROUBLE)._replace(kind=Kind.DEFERRED, unreachable=False, tried=False)


def _after(
    entry: Entry, queued: Queued, outcome: Outcome, schedule: Schedule, now: float, chance: float
) -> Queued:
    queued = replace(
        queued,
        attempts=queued.attempts + outcome.tried,
        passed_over=queued.passed_over + (not outcome.tried),
        last_attempt=now if outcome.tried else queued.last_attempt,
        reply=clean(outcome.reply),
        enhanced=outcome.status,
        remote=clean(outcome.remote),
    )
    if outcome.kind is Kind.DELIVERED:
        status = Status.DELIVERED if outcome.final or outcome.dsn_passed_on else Status.RELAYED
        return replace(queued, status=status, reported=outcome.dsn_passed_on)
    if outcome.kind is Kind.FAILED:
        return replace(queued, status=Status.FAILED)
    if schedule.is_over(queued.attempts + queued.passed_over, entry.arrived, now):
        return replace(queued, status=Status.FAILED, enhanced="4.4.7")  # RFC 3463 §3.5: time expired
    return replace(queued, due=schedule.next_attempt(queued.turns, entry.arrived, now, chance))
