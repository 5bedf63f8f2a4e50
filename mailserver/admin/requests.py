"""What is asked of the queue and what it answers: the words between an operator and a queue, wherever it is.

Not here: how the queue obeys (`queue.desk`, `still_queue`), how words are carried (`control`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

from msgspec import Struct

from mailserver.admin.entries import QueueDestination, QueueDetails, QueueEntry, QueueRecipient
from mailserver.queue.desk import Destination, Listed
from mailserver.queue.entry import Entry, Queued, Status, Unreadable
from mailserver.queue.spool import Missing

LISTED = 1000  # entries of one answer
COMMANDED = 100  # ids of one request

LOOKS = frozenset({"list", "show", "destinations", "troubles"})
"""The verbs that change nothing."""

Verb = Literal["list", "show", "destinations", "troubles", "retry", "hold", "release", "drop"]


class Request(Struct, frozen=True):
    """What is asked of the queue: entries after an id, destinations, troubles, something for `ids`."""

    verb: Verb
    ids: tuple[str, ...] = ()
    after: str = ""


class Answer(Struct, frozen=True):
    """What came of a request; `refused` is why nothing did, `missing` are ids that are not there.

    `troubles` tells by relay what an operator must put right.
    """

    listed: tuple[QueueEntry, ...] = ()
    shown: QueueDetails | None = None
    destinations: tuple[QueueDestination, ...] = ()
    troubles: dict[str, str] = {}
    done: int = 0
    missing: tuple[str, ...] = ()
    refused: str = ""


class Desk(Protocol):
    """The queue as it obeys: `queue.desk.Desk` where it runs. Raises OSError, Busy, Missing, Unreadable."""

    def listing(self, most: int, after: str = "") -> Awaitable[list[Listed]]: ...

    def show(self, entry_id: str) -> Awaitable[Entry]: ...

    def destinations(self) -> Awaitable[list[Destination]]: ...

    def troubles(self) -> Awaitable[Mapping[str, str]]: ...

    def retry(self, entry_id: str) -> Awaitable[bool]: ...

    def hold(self, entry_id: str) -> Awaitable[None]: ...

    def release(self, entry_id: str) -> Awaitable[None]: ...

    def drop(self, entry_id: str) -> Awaitable[None]: ...


async def perform(desk: Desk, request: Request) -> Answer:
    """Do what is asked. Raises Busy."""
    try:
        if request.verb == "list":
            return Answer(listed=tuple(map(_entry, await desk.listing(LISTED, request.after))))
        if request.verb == "destinations":
            return Answer(destinations=tuple(map(_destination, (await desk.destinations())[:LISTED])))
        if request.verb == "troubles":
            return Answer(troubles=dict(await desk.troubles()))
        if request.verb == "show":
            return Answer(shown=_details(await desk.show(request.ids[0])))
        return await _command(getattr(desk, request.verb), request.ids[:COMMANDED])
    except (Missing, IndexError):
        return Answer(missing=request.ids)
    except Unreadable:
        return Answer(refused="the entry cannot be read: this program did not write it")
    except OSError as error:
        return Answer(refused=f"the disk refused: {error.strerror}")


async def _command(obey: Callable[[str], Awaitable[bool | None]], ids: Sequence[str]) -> Answer:
    """All at once, so that they share the syncs; False is the answer of one for which nothing was done."""
    results = await asyncio.gather(*map(obey, ids), return_exceptions=True)
    missing = [entry_id for entry_id, result in zip(ids, results, strict=True) if isinstance(result, Missing)]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Missing):
            raise result
    return Answer(done=len(ids) - len(missing) - results.count(False), missing=tuple(missing))


# ---- entries as an operator sees them


def _entry(listed: Listed) -> QueueEntry:
    entry = listed.entry
    if entry is None:
        return QueueEntry(listed.id, listed.state.value, None, None, None, None, (), "")
    waiting = [queued for queued in entry.recipients if queued.status is Status.PENDING]
    return QueueEntry(
        entry.id,
        listed.state.value,
        _time(entry.arrived),
        None if entry.held else _time(entry.due),
        entry.size,
        str(entry.sender or ""),
        tuple(str(queued.recipient.address) for queued in waiting),
        next((queued.reply for queued in waiting if queued.reply), ""),
        entry.domain,
    )


def _destination(found: Destination) -> QueueDestination:
    blocked = _time(found.blocked_until) if found.blocked_until else None
    return QueueDestination(found.route, found.running, found.waiting, found.parked, blocked, found.reason)


def _details(entry: Entry) -> QueueDetails:
    return QueueDetails(
        entry.id,
        entry.held,
        _time(entry.arrived) or "",
        entry.size,
        str(entry.sender or ""),
        entry.user,
        entry.domain,
        tuple(_recipient(queued, entry.held) for queued in entry.recipients),
    )


def _recipient(queued: Queued, held: bool) -> QueueRecipient:
    waits = queued.status is Status.PENDING and not held
    return QueueRecipient(
        str(queued.recipient.address),
        queued.status.value,
        queued.attempts,
        _time(queued.last_attempt) if queued.attempts else None,
        _time(queued.due) if waits else None,
        queued.remote,
        queued.reply,
    )


def _time(seconds: float) -> str | None:
    """UTC in ISO 8601; None for a time no calendar has (never)."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
