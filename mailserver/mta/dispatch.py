"""Where the copies of one message go: each mailbox once, and into the queue once for each sender and for each
domain whose aliases send it on.

And of which recipients success is to be reported from here (RFC 3461 §5.2.3, §5.2.7): the queue gets an entry
for them in which all is settled, so that reports are as durable as the message, and bounded like others.
Not here: how a recipient's places are found (`mta.routing`), how they are filled (`mta.reception`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from mailserver.mail import trace
from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, Recipient, original_recipient
from mailserver.mail.reply import Reply
from mailserver.mta.route import Leaves, Local
from mailserver.queue.entry import Status

_Entry = tuple[Address | None, str]
"""What a whole entry of the queue has in common: the sender, and the domain whose alias sends it on."""


class Accepted(msgspec.Struct, frozen=True):
    """A recipient that was answered with 250, and the places it leads to."""

    recipient: Recipient
    places: tuple[Local | Leaves, ...]

    @property
    def status(self) -> Status:
        """How it ends with the commit: in one mailbox, at an alias of several addresses, or not yet."""
        if len(self.places) > 1:
            return Status.EXPANDED
        return Status.DELIVERED if isinstance(self.places[0], Local) else Status.PENDING


class Success(NamedTuple):
    """What ends well with the commit and is to be reported: who asked for it, and how it ends for each."""

    envelope: Envelope
    statuses: tuple[Status, ...]


class Dispatch:
    """`mailboxes`, each once, however many recipients lead to it, and `departures`, the queue's envelopes.

    `success` is what the sender asked to hear of; None where he is nobody, who hears of nothing.
    """

    def __init__(self, envelope: Envelope, accepted: Sequence[Accepted]) -> None:
        self._envelope = envelope
        self._accepted = accepted
        mailboxes: dict[str, Local] = {}
        leaves = wished = False
        for given in accepted:
            wished = wished or bool(given.recipient.notify)
            for place in given.places:
                if isinstance(place, Local):
                    mailboxes[place.maildir.path] = place
                else:
                    leaves = True
        self.mailboxes = list(mailboxes.values())
        self.forwarders: set[Address] = set()
        self.departures: list[Envelope] = []
        if leaves:
            self._leave()
        self.success = _success(envelope, accepted) if wished and envelope.sender is not None else None

    def _leave(self) -> None:
        # Who was asked for himself goes before who is led to: of two wishes for an address his counts.
        leaving = [
            (_wishes(given), place)
            for given in sorted(self._accepted, key=lambda given: len(given.places))
            for place in given.places
            if isinstance(place, Leaves)
        ]
        self.forwarders = {place.forwarded_by for _, place in leaving if place.forwarded_by is not None}
        self._entries = _entries(leaving)
        self.departures = _departures(self._envelope, leaving, self._entries)

    def header(self) -> str:
        """What goes on top of the content, which all copies share: no line that holds for some only.

        The queue's couriers leave Return-Path out (RFC 5321 §4.4): it is for mailboxes. Delivered-To names
        the one mailbox, or the one alias that leads away, so that the alias knows its mail again.
        """
        header = trace.return_path(self._envelope.sender) if self.mailboxes else ""
        if len(self.mailboxes) == 1 and not self.departures:
            header += trace.delivered_to(self.mailboxes[0].address)
        elif len(self._accepted) == len(self.forwarders) == 1:
            header += trace.delivered_to(next(iter(self.forwarders)))
        return header

    def outcomes(self, errors: Sequence[Reply | None]) -> list[Reply | None]:
        """What to tell of each recipient: an error if any of its places has one.

        `errors` are those of `mailboxes`, then of `departures`.
        """
        keys: list[str | _Entry] = [place.maildir.path for place in self.mailboxes] + [
            (envelope.sender, envelope.forwarded_by) for envelope in self.departures
        ]
        by_place = dict(zip(keys, errors, strict=True))
        return [
            next((error for place in accepted.places if (error := by_place[self._key(place)])), None)
            for accepted in self._accepted
        ]

    def _key(self, place: Local | Leaves) -> str | _Entry:
        return place.maildir.path if isinstance(place, Local) else self._entries[_copy(place)]


def _copy(place: Leaves) -> tuple[Address | None, Address]:
    """What makes two ways out one: who sends, and to whom."""
    return place.sender, place.recipient


def _entries(leaving: Sequence[tuple[Recipient, Leaves]]) -> dict[tuple[Address | None, Address], _Entry]:
    """Which entry each copy is in: that of the first who leads to it, for nobody gets two."""
    found: dict[tuple[Address | None, Address], _Entry] = {}
    for _, place in leaving:
        domain = "" if place.forwarded_by is None else place.forwarded_by.domain
        found.setdefault(_copy(place), (place.sender, domain))
    return found


def _wishes(accepted: Accepted) -> Recipient:
    """The sender's wishes, as the places hear them: of several none reports success (RFC 3461 §5.2.7.3)."""
    given = accepted.recipient
    if len(accepted.places) == 1 or "SUCCESS" not in given.notify:
        return given
    return msgspec.structs.replace(given, notify=given.notify - {"SUCCESS"} or frozenset({"NEVER"}))


def _success(envelope: Envelope, accepted: Sequence[Accepted]) -> Success | None:
    done = [one for one in accepted if "SUCCESS" in one.recipient.notify and one.status is not Status.PENDING]
    if not done:
        return None
    recipients = tuple(one.recipient for one in done)
    return Success(
        msgspec.structs.replace(envelope, recipients=recipients), tuple(one.status for one in done)
    )


def _departures(
    envelope: Envelope,
    leaving: Sequence[tuple[Recipient, Leaves]],
    entries: dict[tuple[Address | None, Address], _Entry],
) -> list[Envelope]:
    """One envelope for each sender, and for each domain that forwards: an entry is the business of one."""
    groups: dict[_Entry, dict[Address, Recipient]] = {}
    for given, place in leaving:
        wishes = given
        if place.recipient != given.address:  # RFC 3461 §4.2: reports name the address the sender knows
            original = given.original or original_recipient(given.address)
            wishes = Recipient(place.recipient, given.notify, original)
        groups.setdefault(entries[_copy(place)], {}).setdefault(place.recipient, wishes)
    return [
        msgspec.structs.replace(
            envelope, sender=sender, recipients=tuple(recipients.values()), forwarded_by=domain
        )
        for (sender, domain), recipients in groups.items()
    ]
