"""Who administers, and what he may see: roles and operators as values.

Not here: where operators are kept (`operators`), what each role may do (`operation`).
"""

from __future__ import annotations

import enum

from msgspec import Struct

from mailserver.mail.address import Address


class Role(enum.Enum):
    """What an operator is for."""

    OWNER = "owner"  # everything
    DOMAIN_ADMIN = "domain-admin"  # everything in his domains, and nothing of others
    HELP_DESK = "help-desk"  # resets passwords, restores deleted mail, looks at the queue
    AUDITOR = "auditor"  # reads everything, changes nothing
    USER = "user"  # his own password, mailbox and Trash


NOWHERE: frozenset[str] = frozenset()


class Operator(Struct, frozen=True):
    """Who asks for an operation: an account of its own, or a `user` with his `address`.

    `domains` is what he sees of the server: None for all, else the domains he was given. `kept`: there is a
    file that says so (his own, or the user's), which is looked at again before each operation; `uid` is the
    account of this machine by which he came without a password.
    """

    name: str
    role: Role
    domains: frozenset[str] | None = None
    address: Address | None = None
    kept: bool = False
    uid: int | None = None

    def sees(self, domain: str) -> bool:
        """Whether a domain is there for him at all."""
        return self.domains is None or domain in self.domains

    @property
    def of_server(self) -> bool:
        """Whether the whole server is his business, not only a part of its domains."""
        return self.domains is None and self.role is not Role.USER
