"""What operations answer: frozen values. Their field names are the keys of the command line's JSON.

Sizes are octets, 0 for "no limit" in quotas; times are UTC in ISO 8601. Not here: how they are shown.
"""

from __future__ import annotations

from msgspec import Struct


class DomainEntry(Struct, frozen=True):
    """A domain in a list."""

    domain: str
    users: int
    aliases: int


class DomainDetails(Struct, frozen=True):
    """One domain: `display` is its name as people read it, `mailboxes` the directory of its mail."""

    domain: str
    display: str
    users: int
    aliases: int
    catch_all: str | None
    undeliverable_to_postmaster: bool
    quota: int
    quota_messages: int
    mailboxes: str


class ChangedDomain(DomainDetails, frozen=True):
    """A new domain, or one that was changed; `unknown` is a catch-all just given that is nobody here."""

    unknown: tuple[str, ...]


class UserEntry(Struct, frozen=True):
    """A user in a list."""

    address: str


class UserDetails(Struct, frozen=True):
    """One user; the quota is the domain's where the user has none."""

    address: str
    enabled: bool
    quota: int
    quota_messages: int
    mailbox: str


class AliasEntry(Struct, frozen=True):
    """An alias and where it leads."""

    address: str
    targets: tuple[str, ...]


class ListedAlias(AliasEntry, frozen=True):
    """An alias in a list; `unreadable` tells why its targets are not known, empty if they are."""

    unreadable: str


class AddedAlias(AliasEntry, frozen=True):
    """A new alias; `unknown` are those targets in our domains that are neither a user nor an alias."""

    unknown: tuple[str, ...]


class AddedUser(Struct, frozen=True):
    """A new user: `messages` that were in the mailbox already, and what lies aside of removed namesakes."""

    address: str
    mailbox: str
    messages: int
    set_aside: tuple[str, ...]


class RemovedUser(Struct, frozen=True):
    """A removed user: `mail` is kept (at `kept_at`), deleted, or none if there was no mailbox.

    `still_led_to`: the aliases of the domain that lead to him still, and `*@<domain>` for its catch-all.
    """

    address: str
    mail: str
    kept_at: str | None
    still_led_to: tuple[str, ...] = ()


class RemovedDomain(Struct, frozen=True):
    """A removed domain and the users that went with it."""

    domain: str
    users: tuple[RemovedUser, ...]


class MailboxSummary(Struct, frozen=True):
    """What a mailbox holds; `storage` and `messages` count for the quota, Trash does not."""

    address: str
    mailbox: str
    messages: int
    unread: int
    storage: int
    quota: int
    quota_messages: int
    trash_messages: int
    trash_storage: int


class TrashEntry(Struct, frozen=True):
    """A deleted message: `id` names it to restore it; sender and subject are as the message says."""

    id: str
    deleted_at: str
    size: int
    sender: str
    subject: str


class TrashResult(Struct, frozen=True):
    """How many messages were restored or removed for good."""

    address: str
    restored: int = 0
    purged: int = 0


class QueueEntry(Struct, frozen=True):
    """A message in the queue: `recipients` that wait, `state` of `queue.desk.State`, the last `reply`.

    `arrived`, `next_attempt`, `size`, `sender` are None where the entry cannot be read or is held.
    `domain` is whose message it is, by `queue.entry.Entry.domain`.
    """

    id: str
    state: str
    arrived: str | None
    next_attempt: str | None
    size: int | None
    sender: str | None
    recipients: tuple[str, ...]
    reply: str
    domain: str = ""


class QueueRecipient(Struct, frozen=True):
    """One recipient of a message in the queue; `remote` said `reply` at the last attempt."""

    address: str
    status: str
    attempts: int
    last_attempt: str | None
    next_attempt: str | None
    remote: str
    reply: str


class QueueDetails(Struct, frozen=True):
    """One message in the queue; `user` is who submitted it, `sender` empty for a bounce.

    `domain` is whose message it is, by `queue.entry.Entry.domain`.
    """

    id: str
    held: bool
    arrived: str
    size: int
    sender: str
    user: str
    domain: str
    recipients: tuple[QueueRecipient, ...]


class QueueDestination(Struct, frozen=True):
    """Where mail of the queue goes: messages on their way, that `wait` for a turn, and that could not go.

    `blocked_until` is None where it is not left alone, `reply` what was said when it last failed.
    """

    route: str
    running: int
    waiting: int
    parked: int
    blocked_until: str | None
    reply: str


class QueueResult(Struct, frozen=True):
    """How many messages a command was obeyed for."""

    done: int


class RelayEntry(Struct, frozen=True):
    """A relay and which mail takes it; `senders` are addresses and domains, `recipients` domains.

    `trouble`: what an operator must put right before its hosts take mail, empty if nothing is known.
    """

    name: str
    hosts: tuple[str, ...]
    protocol: str
    tls: str
    user: str
    senders: tuple[str, ...]
    recipients: tuple[str, ...]
    default: bool
    trouble: str


class RelayStep(Struct, frozen=True):
    """One thing a relay was tried with: whether it went well, and a sentence about it."""

    good: bool
    text: str


class OperatorEntry(Struct, frozen=True):
    """An operator; `domains` None: all. `account` of this machine is this operator without a password."""

    name: str
    role: str
    domains: tuple[str, ...] | None
    account: str | None
    enabled: bool


class WhoAmI(Struct, frozen=True):
    """An operator as the administration knows him; `domains` None: all. `front` is how he asks."""

    name: str
    role: str
    domains: tuple[str, ...] | None
    front: str


class Counter(Struct, frozen=True):
    """What was counted, over all processes."""

    name: str
    value: int


class LogLine(Struct, frozen=True):
    """A line of the log."""

    line: str


class Text(Struct, frozen=True):
    """Lines of text, such as a file or what differs in it."""

    text: str


class ListenerEntry(Struct, frozen=True):
    """A listener; while it is `paused`, nothing new is accepted there."""

    endpoint: str
    protocol: str
    proxy_from: tuple[str, ...]
    allow_cleartext_login: bool
    paused: bool


class Confirmed(Struct, frozen=True):
    """A change that stays, though it could have been taken back `until` then."""

    who: str
    front: str
    until: str


class ExplainedStep(Struct, frozen=True):
    """A rule that was tried for `subject`, and what it found; `leads_to` is who is asked about next."""

    rule: str
    subject: str
    found: str
    decides: bool
    leads_to: tuple[str, ...]


class ExplainedPlace(Struct, frozen=True):
    """Where mail ends up: in the `mailbox` of `address`, or out by a relay or host, from `sender`."""

    address: str
    way: str
    sender: str


class Explanation(Struct, frozen=True):
    """Why mail for `recipient` goes where it goes; `reply` is what a client hears who is refused."""

    recipient: str
    reply: str
    places: tuple[ExplainedPlace, ...]
    steps: tuple[ExplainedStep, ...]


class StoryStep(Struct, frozen=True):
    """What happened to a message, under whichever of its ids."""

    at: str
    id: str
    event: str
    text: str


class Story(Struct, frozen=True):
    """What became of a message."""

    message: str
    steps: tuple[StoryStep, ...]


class AuditEntry(Struct, frozen=True):
    """An operation that somebody asked for; `said` is what with, without secrets."""

    at: str
    operator: str
    role: str
    front: str
    operation: str
    outcome: str
    said: dict[str, str]
