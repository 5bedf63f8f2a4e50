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


class AddedUser(Struct, frozen=True):
    """A new user: `messages` that were in the mailbox already, and what lies aside of removed namesakes."""

    address: str
    mailbox: str
    messages: int
    set_aside: tuple[str, ...]


class RemovedUser(Struct, frozen=True):
    """A removed user: `mail` is kept (at `kept_at`), deleted, or none if there was no mailbox."""

    address: str
    mail: str
    kept_at: str | None


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
