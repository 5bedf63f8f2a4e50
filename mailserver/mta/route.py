"""A route: where mail for one address goes, or the reply that says why it goes nowhere. Values only.

Not here: how a route is found (`mta.routing`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from mailserver.mail.address import Address
from mailserver.mail.path import Foreign, Postmaster
from mailserver.mail.quota import Quota
from mailserver.mail.reply import Reply
from mailserver.mailbox.maildir import Maildir

UNKNOWN = Reply(550, "5.1.1", "No such user here")
RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied")
TROUBLE = Reply(451, "4.3.0", "Temporary trouble here, try again later")
BUSY = Reply(451, "4.3.2", "Too busy, try again later")
DISABLED = Reply(450, "4.2.1", "Mailbox is disabled for the time being")
OVER_QUOTA = Reply(452, "4.2.2", "Mailbox is full")
ALIAS_BROKEN = Reply(451, "4.3.5", "Alias leads nowhere, try again later")
RETURN_ONLY = Reply(550, "5.7.1", "Only bounces are taken for this address")
RETURN_UNKNOWN = Reply(550, "5.1.1", "No such return address here, or not any more")
NO_RELAY = Reply(451, "4.3.5", "Mail to other hosts is not available, try again later")
NO_FORWARDING = Reply(451, "4.3.5", "Forwarding to other hosts is not available, try again later")


class Local(NamedTuple):
    """A mailbox here: whose it is, where it is, how much it may hold."""

    address: Address
    maildir: Maildir
    quota: Quota


class Leaves(NamedTuple):
    """An address elsewhere, and the sender under which the message goes there.

    `forwarded_by` is the alias that leads to it; None where the client asked for it himself.
    """

    recipient: Address
    sender: Address | None
    forwarded_by: Address | None = None


Route = tuple[Local | Leaves, ...] | Reply


class Asker(msgspec.Struct, frozen=True):
    """Who asks for a route: the message's sender, None for the null sender; whether he may relay:
    then the sender was checked to be his."""

    sender: Address | None = None
    may_relay: bool = False


ANYBODY = Asker()


# ---- what a decision was made of, for who asks why


class Rule(enum.Enum):
    """The rules, as an operator knows them."""

    DOMAIN = "domain"
    RELAY = "relay"
    RETURN = "return path"
    USER = "user"
    ENABLED = "enabled"
    ALIAS = "alias"
    CATCH_ALL = "catch-all"
    POSTMASTER = "postmaster"
    CIRCLE = "circle"
    QUOTA = "quota"
    FILES = "files"


class Tried(NamedTuple):
    """A rule that was tried for `subject`, and what it `found`; `decides`: no further one was asked about it.

    `leads_to` are the addresses that are asked about in its place.
    """

    rule: Rule
    subject: Address | Postmaster | Foreign
    found: str
    decides: bool = False
    leads_to: tuple[Address, ...] = ()


Witness = Callable[[Tried], None]
"""Told of every rule in the order in which they are tried."""
