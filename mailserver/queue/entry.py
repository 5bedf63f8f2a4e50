"""One message in the queue: its envelope and what became of each recipient, and their text on disk.

The text is JSON with a version, written and read by `msgspec`: a person can read it, and nothing in it is
ever executed. It is read by the grammar of what comes from clients and hosts, for a person may have written
it, or a disk damaged it, and from here it goes into commands, reports and names. Values only; files are the
spool's (`queue.spool`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from mailserver.mail.address import Address, is_path
from mailserver.mail.envelope import Envelope, Recipient

VERSION = 1
HELD = 2.0**31 - 1  # when a held entry is due: 2038, the latest time every file system can store
NEVER = float("inf")
REPLY = 1000  # characters of a remote reply that are kept

_ID = re.compile(r"[A-Za-z0-9]{1,100}")
_STATUS = re.compile(r"(?:[0-9]\.[0-9]{1,3}\.[0-9]{1,3})?")
_WORD = re.compile(r"[^\x00-\x20\x7f]{1,2000}")  # ENVID and ORCPT, as they stand in a command
_LINE = re.compile(r"[^\x00-\x1f\x7f]{0,2000}")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})

Time = Annotated[float, Meta(ge=0, le=1e11)]  # seconds
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Unreadable(Exception):
    """The text is no entry of a version this program knows."""


class Status(Enum):
    """What became of a recipient."""

    PENDING = "pending"
    DELIVERED = "delivered"  # in a mailbox, or with a host that reports further itself (RFC 3461)
    RELAYED = "relayed"  # with a host that will not report success
    EXPANDED = "expanded"  # with several addresses an alias leads to, of which none reports success
    FAILED = "failed"


class Queued(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recipient and its story so far. Times in UNIX time; `reply` is what `remote` said last.

    `passed_over`: how often it was due and not tried, for its destination was being left alone. `by_hand`:
    how often it was due before its time, for an operator said so.
    `enhanced` is the status code of RFC 3463 that belongs to it. `reported`: the sender was told the end.
    """

    recipient: Recipient
    status: Status = Status.PENDING
    due: Time = 0.0
    attempts: Count = 0
    passed_over: Count = 0
    by_hand: Count = 0
    last_attempt: Time = 0.0
    reply: str = ""
    enhanced: str = ""
    remote: str = ""
    reported: bool = False

    @property
    def turns(self) -> int:
        """How often it was due by the schedule, which an operator's impatience does not push further."""
        due = self.attempts + self.passed_over
        return max(due - self.by_hand, min(due, 1))

    @property
    def owes_report(self) -> bool:
        """Whether the sender is still to be told how this ended (RFC 3461 §4.1)."""
        if self.reported or self.status is Status.PENDING:
            return False
        wishes = self.recipient.notify
        if self.status is Status.FAILED:
            return not wishes or "FAILURE" in wishes
        return "SUCCESS" in wishes


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message in the queue. `size`: octets at rest, `wire_size`: with CRLF; `user`: who submitted it;
    `forwarded_by`: the domain of the alias that sends it on. `inside`: the content stands before the
    envelope, in the same file.

    `delay_told`: the sender heard that it takes longer. `report_due`: when a report that could not be
    handed in is tried again.
    """

    version: int = VERSION
    id: str
    sender: Address | None
    recipients: tuple[Queued, ...]
    body_8bit: bool = False
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    arrived: Time
    size: Count
    wire_size: Count
    user: str = ""
    forwarded_by: str = ""
    inside: bool = False
    held: bool = False
    delay_told: bool = False
    report_due: Time = 0.0

    @property
    def domain(self) -> str:
        """Whose message it is: of the alias that sends it on, else of who logged in; empty: of neither.

        Never the sender's: anybody can say that he is somebody.
        """
        return self.forwarded_by or self.user.partition("@")[2]

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do, so that the entry can go."""
        return not any(q.status is Status.PENDING or q.owes_report for q in self.recipients)

    @property
    def due(self) -> float:
        """When there is something to do, in UNIX time: HELD for a held entry, NEVER for a settled one."""
        if self.held:
            return HELD
        times = [queued.due for queued in self.recipients if queued.status is Status.PENDING]
        if any(queued.owes_report for queued in self.recipients):
            times.append(self.report_due)
        return min(times, default=NEVER)


def begin(
    entry_id: str,
    envelope: Envelope,
    *,
    size: int,
    wire_size: int,
    user: str,
    now: float,
    settled: Sequence[Status] = (),
    inside: bool = False,
) -> Entry:
    """The entry of a message that has just come in: every recipient is due at once.

    Or each is `settled` already, so that nothing is left to do but to report it.
    """
    statuses = settled or [Status.PENDING] * len(envelope.recipients)
    return Entry(
        id=entry_id,
        sender=envelope.sender,
        recipients=tuple(
            Queued(recipient, status, due=now)
            for recipient, status in zip(envelope.recipients, statuses, strict=True)
        ),
        body_8bit=envelope.body_8bit,
        smtputf8=envelope.smtputf8,
        ret=envelope.ret,
        envid=envelope.envid,
        arrived=now,
        size=size,
        wire_size=wire_size,
        user=user,
        forwarded_by=envelope.forwarded_by,
        inside=inside,
    )


def made_due(entry: Entry, now: float) -> Entry:
    """The entry with all that is left to do due now, for its operator says so; a held one stays held."""
    recipients = tuple(
        replace(queued, due=now, by_hand=queued.by_hand + (queued.due > now))
        if queued.status is Status.PENDING
        else queued
        for queued in entry.recipients
    )
    return replace(entry, recipients=recipients, report_due=min(entry.report_due, now))


def encode(entry: Entry) -> bytes:
    """The text of an entry: one line of JSON."""
    return _encoder.encode(entry) + b"\n"


def tail(entry: Entry) -> bytes:
    """What follows content that stands before its envelope: a line end of its own, whatever it ends with."""
    return b"\n" + encode(entry)


def decode(data: bytes) -> Entry:
    """The entry of a text. Raises Unreadable."""
    try:
        if _version.decode(data).version != VERSION:
            raise Unreadable("unknown version")
        entry = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("not an entry") from error
    if not (_is_sound(entry) and all(map(_is_sound_recipient, entry.recipients))):
        raise Unreadable("not in the grammar")
    return entry


def is_id(text: str) -> bool:
    """Whether `text` can be the id of an entry; ids are names of files, so nothing else is ever joined."""
    return _ID.fullmatch(text) is not None


def clean(reply: str) -> str:
    """A remote reply as it is kept: one line without control characters, at most REPLY characters."""
    kept = reply[:REPLY]
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() else " " for c in kept)
    return kept.strip()


def _is_sound(entry: Entry) -> bool:
    return (
        is_id(entry.id)
        and (entry.sender is None or is_path(entry.sender))
        and entry.ret in (None, "FULL", "HDRS")
        and (entry.envid is None or _WORD.fullmatch(entry.envid) is not None)
        and _LINE.fullmatch(entry.user) is not None
        and (not entry.forwarded_by or is_path(Address("x", entry.forwarded_by)))
    )


def _is_sound_recipient(queued: Queued) -> bool:
    given = queued.recipient
    return (
        is_path(given.address)
        and (given.notify <= _NOTIFY or given.notify == {"NEVER"})
        and (given.original is None or _WORD.fullmatch(given.original) is not None)
        and clean(queued.reply) == queued.reply
        and clean(queued.remote) == queued.remote
        and _STATUS.fullmatch(queued.enhanced) is not None
    )


class _Version(msgspec.Struct):
    version: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)
_version = msgspec.json.Decoder(_Version)
