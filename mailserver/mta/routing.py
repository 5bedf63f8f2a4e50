"""Where mail for an address goes: into mailboxes here, or back to the client with a reason.

Every rule is tried in one order, and the first that knows the address decides:

    user, alias, then both again without the +tag, then postmaster of the default domain,
    then the domain's catch-all, then the domain's postmaster for undeliverable mail

so a catch-all always loses to people and aliases. Trouble of ours (a malformed file, a full pool) is a
4xx reply, never a bounce. Not here: what is in the files (`directory`), storing (`mta.reception`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from mailserver import maillog
from mailserver.directory import Directory, Domain, Unavailable, User, names
from mailserver.mail.address import Address, AddressError, fold_local, parse_mailbox
from mailserver.mail.path import Foreign, Postmaster
from mailserver.mail.quota import Quota
from mailserver.mail.reply import Reply
from mailserver.mailbox import quota as quotas
from mailserver.mailbox.maildir import Maildir
from mailserver.pool import Busy, Pool

EXPANSION = 1000  # addresses one recipient may lead to, over all aliases

UNKNOWN = Reply(550, "5.1.1", "No such user here")
RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied")
TROUBLE = Reply(451, "4.3.0", "Temporary trouble here, try again later")
BUSY = Reply(451, "4.3.2", "Too busy, try again later")
DISABLED = Reply(450, "4.2.1", "Mailbox is disabled for the time being")
OVER_QUOTA = Reply(452, "4.2.2", "Mailbox is full")
ALIAS_BROKEN = Reply(451, "4.3.5", "Alias leads nowhere, try again later")
NO_FORWARDING = Reply(451, "4.3.5", "Forwarding to other hosts is not available, try again later")

_RELAY_MARKS = frozenset("%!@")  # user%there@here, there!user@here, "user@there"@here


class Local(NamedTuple):
    """A mailbox here: whose it is, where it is, how much it may hold."""

    address: Address
    maildir: Maildir
    quota: Quota


Route = tuple[Local, ...] | Reply


class Mailboxes:
    """Where the mailboxes are: `root`/domain/user, or the place the domain names for itself."""

    def __init__(self, root: str) -> None:
        self.root = root

    def of_domain(self, domain: Domain) -> str:
        return domain.maildirs or os.path.join(self.root, domain.name)

    def of(self, domain: Domain, local: str) -> Maildir:
        return Maildir(os.path.join(self.of_domain(domain), names.encode(fold_local(local))))

    def every(self, directory: Directory) -> Iterator[str]:
        """The path of every user's mailbox, there or not; domains that cannot be read are left out."""
        for name in directory.domains():
            try:
                domain = directory.domain(name)
            except Unavailable:
                continue
            if domain is not None:
                for local in directory.users(name):
                    yield self.of(domain, local).path


class Routing:
    """The rules. `default_domain` is where the bare `<postmaster>` lives; `delimiter` begins a +tag."""

    def __init__(
        self,
        directory: Directory,
        mailboxes: Mailboxes,
        pool: Pool,
        default_domain: str | None,
        delimiter: str,
    ) -> None:
        self._directory = directory
        self._mailboxes = mailboxes
        self._pool = pool
        self._default_domain = default_domain
        self._delimiter = delimiter

    async def route(self, path: Address | Postmaster | Foreign, size: int) -> Route:
        """Decide about one recipient of a message that says it has `size` octets (0: it does not say)."""
        try:
            found = self._decide(path)
            if isinstance(found, Reply):
                return found
            for local in found:
                if any(local.quota) and await self._pool.run(
                    quotas.is_over, local.maildir, local.quota, size
                ):
                    return OVER_QUOTA
            return found
        except Unavailable as error:
            maillog.count("routing.unavailable")
            maillog.event("unavailable", file=error.file, reason=error.reason)
            return TROUBLE
        except Busy:
            return BUSY
        except OSError as error:
            maillog.event("routing-failed", recipient=path, error=error.strerror)
            return TROUBLE

    def _decide(self, path: Address | Postmaster | Foreign) -> Route:
        if isinstance(path, Foreign):
            return RELAY_DENIED
        if isinstance(path, Postmaster):
            return self._postmaster()
        expansion = _Expansion(self._directory, self._mailboxes, self._delimiter, self._default_domain)
        return expansion.of(path)

    def _postmaster(self) -> Route:
        domain = self._default_domain or min(self._directory.domains(), default=None)
        if domain is None:
            return UNKNOWN
        return self._decide(Address("postmaster", domain))


class _Expansion:
    """One recipient followed through aliases to its mailboxes; a loop ends where it began."""

    def __init__(
        self, directory: Directory, mailboxes: Mailboxes, delimiter: str, default_domain: str | None
    ) -> None:
        self._directory = directory
        self._mailboxes = mailboxes
        self._delimiter = delimiter
        self._default_domain = default_domain
        self._seen: set[Address] = set()
        self._found: dict[str, Local] = {}

    def of(self, address: Address) -> Route:
        refusal = self._follow(address)
        if refusal is not None:
            return refusal
        return tuple(self._found.values()) or ALIAS_BROKEN

    def _follow(self, address: Address) -> Reply | None:
        """Add the mailboxes of `address`; a Reply if it has none."""
        key = Address(fold_local(address.local), address.domain)
        if key in self._seen:
            return None
        if len(self._seen) >= EXPANSION:
            return ALIAS_BROKEN
        self._seen.add(key)
        domain = self._directory.domain(address.domain)
        if domain is None:
            return RELAY_DENIED if len(self._seen) == 1 else NO_FORWARDING
        for candidate in self._candidates(domain, address.local):
            user = self._directory.user(candidate[0].name, candidate[1])
            if user is not None:
                return self._add(candidate[0], user)
            targets = self._directory.alias(candidate[0].name, candidate[1])
            if targets is not None:
                return self._follow_all(address, targets)
        return self._undeliverable(domain, address.local)

    def _candidates(self, domain: Domain, local: str) -> Iterator[tuple[Domain, str]]:
        yield domain, local
        untagged = local.partition(self._delimiter)[0] if self._delimiter else ""
        if untagged and untagged != local:
            yield domain, untagged
        # RFC 5321 §4.5.1: postmaster is accepted in every domain
        if fold_local(untagged or local) == "postmaster" and self._default_domain:
            default = self._directory.domain(self._default_domain)
            if default is not None and default.name != domain.name:
                yield default, "postmaster"

    def _add(self, domain: Domain, user: User) -> Reply | None:
        if not user.enabled:
            return DISABLED
        maildir = self._mailboxes.of(domain, user.local)
        self._found[maildir.path] = Local(Address(user.local, user.domain), maildir, user.quota)
        return None

    def _follow_all(self, alias: Address, targets: tuple[Address, ...]) -> Reply | None:
        """Every target of an alias; one that is gone must not keep the mail from the others."""
        for target in targets:
            refusal = self._follow(target)
            if refusal in (UNKNOWN, DISABLED):
                maillog.event("alias-target-skipped", alias=alias, target=target, reply=refusal)
            elif refusal is not None:
                return refusal
        return None

    def _undeliverable(self, domain: Domain, local: str) -> Reply | None:
        if not _RELAY_MARKS.isdisjoint(local):
            return RELAY_DENIED
        for target in self._last_resorts(domain):
            if Address(fold_local(target.local), target.domain) not in self._seen:
                return self._follow(target)
        return UNKNOWN

    def _last_resorts(self, domain: Domain) -> Iterator[Address]:
        if domain.catch_all is not None:
            yield _catch_all(domain, domain.catch_all)
        if domain.postmaster_gets_undeliverable:
            yield Address("postmaster", domain.name)


def _catch_all(domain: Domain, text: str) -> Address:
    try:
        return parse_mailbox(text if "@" in text else f"{text}@{domain.name}")
    except AddressError:
        file = os.path.join(domain.directory, "domain.toml")
        raise Unavailable(file, "catch_all is no address") from None
