"""Where mail for an address goes: into mailboxes here, to another host, or back to the client with a reason.

Every rule is tried in one order, and the first that knows the address decides:

    the way back for bounces of forwarded mail, user, alias, then both again without the +tag, then
    postmaster of the default domain, then the domain's catch-all, then the domain's postmaster for
    undeliverable mail

so a catch-all always loses to people and aliases. An address in no domain of ours is reached by sessions
that may relay, and by way of an alias; there is no third way. Trouble of ours (a malformed file, a full
pool) is a 4xx reply, never a bounce. Not here: what is in the files (`directory`), storing
(`mta.reception`), which host is the next (`queue`, `delivery`).
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator

from mailserver import maillog
from mailserver.directory import Directory, Domain, Unavailable, User, names
from mailserver.mail.address import Address, AddressError, fold_local, is_rewritten, parse_mailbox
from mailserver.mail.path import Foreign, Postmaster
from mailserver.mail.reply import Reply
from mailserver.mailbox import quota as quotas
from mailserver.mailbox.maildir import Maildir
from mailserver.mta.forwarding import Forwarding
from mailserver.mta.route import (
    ALIAS_BROKEN,
    ANYBODY,
    BUSY,
    DISABLED,
    NO_FORWARDING,
    NO_RELAY,
    OVER_QUOTA,
    RELAY_DENIED,
    RETURN_ONLY,
    RETURN_UNKNOWN,
    TROUBLE,
    UNKNOWN,
    Asker,
    Leaves,
    Local,
    Route,
)
from mailserver.pool import Busy, Pool

EXPANSION = 1000  # addresses one recipient may lead to, over all aliases
POSTMASTERS = 100  # domains that are asked for a postmaster

_RELAY_MARKS = frozenset("%!@")  # user%there@here, there!user@here, "user@there"@here


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
    """The rules. `default_domain` is where the bare `<postmaster>` lives; `delimiter` begins a +tag.

    Without `forwarding` no mail leaves: what would is put off.
    """

    def __init__(
        self,
        directory: Directory,
        mailboxes: Mailboxes,
        pool: Pool,
        default_domain: str | None,
        delimiter: str,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._directory = directory
        self._mailboxes = mailboxes
        self._pool = pool
        self._default_domain = default_domain
        self._delimiter = delimiter
        self._forwarding = forwarding

    async def route(self, path: Address | Postmaster | Foreign, size: int, asker: Asker = ANYBODY) -> Route:
        """Decide about one recipient of a message that says it has `size` octets (0: it does not say)."""
        try:
            found = self._decide(path, asker)
            if isinstance(found, Reply):
                return found
            for place in found:
                if isinstance(place, Local) and await self._is_full(place, size):
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

    def reaches(self, address: Address, user: Address) -> bool:
        """Whether mail for `address` comes into the mailbox of `user`. Raises Unavailable."""
        found = self._expand(address, ANYBODY)
        key = Address(fold_local(user.local), user.domain)
        return not isinstance(found, Reply) and any(
            isinstance(place, Local) and place.address == key for place in found
        )

    def postmaster(self) -> Address | None:
        """The server's postmaster: that of the default domain, else of the first domain that has one.

        What the bare `<postmaster>` means (RFC 5321 §4.5.1). Raises Unavailable, OSError.
        """
        for domain in self._postmaster_domains():
            address = Address("postmaster", domain)
            if self.is_ours(domain) and self._expand(address, ANYBODY) != UNKNOWN:
                return address
        return None

    def _postmaster_domains(self) -> Iterator[str]:
        if self._default_domain:
            yield self._default_domain
        yield from heapq.nsmallest(POSTMASTERS, self._directory.domains())

    def is_ours(self, domain: str) -> bool:
        """Whether mail for `domain` comes here. Raises Unavailable."""
        return self._directory.domain(domain) is not None

    async def _is_full(self, place: Local, size: int) -> bool:
        return any(place.quota) and await self._pool.run(quotas.is_over, place.maildir, place.quota, size)

    def _decide(self, path: Address | Postmaster | Foreign, asker: Asker) -> Route:
        if isinstance(path, Foreign):
            return RELAY_DENIED
        if isinstance(path, Postmaster):
            postmaster = self.postmaster()
            return UNKNOWN if postmaster is None else self._expand(postmaster, asker)
        return self._expand(path, asker)

    def _expand(self, address: Address, asker: Asker) -> Route:
        expansion = _Expansion(
            self._directory,
            self._mailboxes,
            self._delimiter,
            self._default_domain,
            self._forwarding,
            asker,
        )
        return expansion.of(address)


class _Expansion:
    """One recipient followed through aliases to mailboxes and other hosts; a loop ends where it began."""

    def __init__(
        self,
        directory: Directory,
        mailboxes: Mailboxes,
        delimiter: str,
        default_domain: str | None,
        forwarding: Forwarding | None,
        asker: Asker,
    ) -> None:
        self._directory = directory
        self._mailboxes = mailboxes
        self._delimiter = delimiter
        self._default_domain = default_domain
        self._forwarding = forwarding
        self._asker = asker
        self._seen: set[Address] = set()
        self._found: dict[str | Address, Local | Leaves] = {}

    def of(self, address: Address) -> Route:
        refusal = self._follow(address, None)
        if refusal is not None:
            return refusal
        return tuple(self._found.values()) or ALIAS_BROKEN

    def _follow(self, address: Address, alias: Address | None) -> Reply | None:
        """Add the places of `address`, to which `alias` led; a Reply if it has none."""
        key = Address(fold_local(address.local), address.domain)
        if key in self._seen:
            return None
        if len(self._seen) >= EXPANSION:
            return ALIAS_BROKEN
        self._seen.add(key)
        domain = self._directory.domain(address.domain)
        if domain is None:
            return self._lead_away(address, alias)
        if alias is None and self._forwarding is not None and is_rewritten(address.local):
            return self._lead_back(address, self._forwarding)
        for candidate in self._candidates(domain, address.local):
            user = self._directory.user(candidate[0].name, candidate[1])
            if user is not None:
                return self._add(candidate[0], user)
            targets = self._directory.alias(candidate[0].name, candidate[1])
            if targets is not None:
                return self._follow_all(Address(fold_local(candidate[1]), candidate[0].name), targets)
        return self._undeliverable(domain, key)

    def _lead_away(self, address: Address, alias: Address | None) -> Reply | None:
        if alias is None and not self._asker.may_relay:
            return RELAY_DENIED
        if self._forwarding is None:
            return NO_FORWARDING if alias else NO_RELAY
        sender = self._forwarding.sender(self._asker.sender, alias) if alias else self._asker.sender
        self._found[address] = Leaves(address, sender, alias)
        return None

    def _lead_back(self, address: Address, forwarding: Forwarding) -> Reply | None:
        """A valid code lets through a bounce to who sent the mail: nothing else, and nowhere else."""
        original = forwarding.original(address)
        if original is None:
            return RETURN_UNKNOWN
        if self._asker.sender is not None:
            return RETURN_ONLY
        self._asker = self._asker._replace(may_relay=True)
        return self._follow(original, None)

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
            refusal = self._follow(target, alias)
            if refusal in (UNKNOWN, DISABLED):
                maillog.event("alias-target-skipped", alias=alias, target=target, reply=refusal)
            elif refusal is not None:
                return refusal
        return None

    def _undeliverable(self, domain: Domain, address: Address) -> Reply | None:
        if not _RELAY_MARKS.isdisjoint(address.local):
            return RELAY_DENIED
        for target in self._last_resorts(domain):
            if Address(fold_local(target.local), target.domain) not in self._seen:
                return self._follow(target, address)
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
