"""What the directory database holds, as values, and what can be wrong with it.

Not here: how the files are read (`cache`), or their forms (`users`, `aliases`, `domains`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailserver.mail.address import Address
from mailserver.mail.quota import Quota

NO_LIMIT = Quota()


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain whose mail is ours. `quota` is the default of its users."""

    name: str  # lower-case A-labels
    directory: str  # where its files are; named by A-labels or U-labels
    catch_all: str | None = None  # a full address, also for a target in this domain
    postmaster_gets_undeliverable: bool = False
    quota: Quota = NO_LIMIT
    maildirs: str | None = None  # absolute; where its mailboxes are, if not at the usual place


@dataclass(frozen=True, slots=True)
class User:
    """A mailbox's owner. `password` is a hash as `passwords.verify` takes it."""

    local: str  # folded: the key, not as somebody spelled it
    domain: str
    password: str = field(repr=False)
    quota: Quota
    enabled: bool
    maildirs: str | None = None  # as the domain's
    address: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", str(Address(self.local, self.domain)))


class Malformed(ValueError):
    """A file's content has not the expected form; the text names the line or key, and the form."""


class Unavailable(Exception):
    """A file is malformed or unreadable: trouble of ours, so the client is told to come back (4xx).

    `file` and `reason` are for the log and for the operator, never for a client.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class Exists(LookupError):
    """What should be added is there already."""


class Missing(LookupError):
    """What should be changed, listed or removed is not there."""
