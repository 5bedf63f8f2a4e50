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
from collections.abc import Awaitable, Iterator, Sequence
from functools import lru_cache

from mailserver import maillog
from mailserver.directory import Directory, Domain, Seen, Unavailable, User, is_unchanged, names
from mailserver.mail.address import Address, fold_local
from mailserver.mail.path import Foreign, Postmaster
from mailserver.mail.reply import Reply
from mailserver.mailbox import quota as quotas
from mailserver.mailbox.maildir import Maildir
from mailserver.mta.expansion import Expansion, Rules
from mailserver.mta.forwarding import Forwarding
from mailserver.mta.route import (
    ANYBODY,
    BUSY,
    OVER_QUOTA,
    RELAY_DENIED,
    TROUBLE,
    UNKNOWN,
    Asker,
    Leaves,
    Local,
    Route,
    Rule,
    Tried,
    Witness,
)
from mailserver.pool import Busy, Pool

POSTMASTERS = 100  # domains that are asked for a postmaster
KNOWN = 8192  # users whose route is kept, as long as their files and those of their domains are the same


class Mailboxes:
    """Where the mailboxes are: `root`/domain/user, or the place the domain names for itself."""

    def __init__(self, root: str) -> None:
        self.root = root

    def of_domain(self, domain: Domain) -> str:
        return _of_domain(self.root, domain.name, domain.maildirs)

    def of(self, domain: Domain, local: str) -> Maildir:
        return Maildir(_path(self.root, domain.name, domain.maildirs, local))

    def of_user(self, user: User) -> Maildir:
        return Maildir(_path(self.root, user.domain, user.maildirs, user.local))

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
        self._pool = pool
        self._default_domain = default_domain
        self._rules = Rules(directory, mailboxes.of, delimiter, default_domain, forwarding)
        self._known: dict[Address, tuple[Sequence[Seen], Route]] = {}

    async def route(
        self,
        path: Address | Postmaster | Foreign,
        size: int,
        asker: Asker = ANYBODY,
        witness: Witness | None = None,
    ) -> Route:
        """Decide about one recipient of a message that says it has `size` octets (0: it does not say)."""
        found = self.decide(path, size, asker, witness)
        return found if isinstance(found, tuple) else await found

    def decide(
        self,
        path: Address | Postmaster | Foreign,
        size: int,
        asker: Asker = ANYBODY,
        witness: Witness | None = None,
    ) -> Route | Awaitable[Route]:
        """The same, at once where no mailbox may be full: what one holds is read and counted in a thread."""
        try:
            if isinstance(path, Address):
                found = self._expand(path, asker, witness)
            else:
                found = self._decide(path, asker, witness)
            if isinstance(found, Reply):
                return found
            for place in found:
                if isinstance(place, Local) and (
                    witness is not None or not quotas.fits(place.maildir, place.quota, size)
                ):
                    return self._with_room(path, found, size, witness)
            return found
        except Unavailable as error:
            maillog.count("routing.unavailable")
            maillog.event("unavailable", file=error.file, reason=error.reason)
        except OSError as error:
            maillog.event("routing-failed", recipient=path, error=error.strerror)
        return _trouble(path, witness)

    async def _with_room(
        self,
        path: Address | Postmaster | Foreign,
        found: tuple[Local | Leaves, ...],
        size: int,
        witness: Witness | None,
    ) -> Route:
        try:
            for place in found:
                if isinstance(place, Local) and await self._is_full(place, size, witness):
                    return OVER_QUOTA
            return found
        except Busy:
            return BUSY
        except OSError as error:
            maillog.event("routing-failed", recipient=path, error=error.strerror)
            return _trouble(path, witness)

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

    def known_postmaster(self) -> Address | None:
        """The same; None, too, where trouble of ours hides him, which is logged."""
        try:
            return self.postmaster()
        except Unavailable as error:
            maillog.event("unavailable", file=error.file, reason=error.reason)
        except OSError as error:
            maillog.event("routing-failed", recipient="postmaster", error=error.strerror)
        return None

    def _postmaster_domains(self) -> Iterator[str]:
        if self._default_domain:
            yield self._default_domain
        yield from heapq.nsmallest(POSTMASTERS, self._directory.domains())

    def is_ours(self, domain: str) -> bool:
        """Whether mail for `domain` comes here. Raises Unavailable."""
        return self._directory.domain(domain) is not None

    async def _is_full(self, place: Local, size: int, witness: Witness | None) -> bool:
        limited = any(place.quota)
        full = not quotas.fits(place.maildir, place.quota, size) and await self._pool.run(
            quotas.is_over, place.maildir, place.quota, size
        )
        if witness is not None:
            found = "the mailbox is full" if full else "there is room" if limited else "no limit"
            witness(Tried(Rule.QUOTA, place.address, found, full))
        return full

    def _decide(self, path: Postmaster | Foreign, asker: Asker, witness: Witness | None) -> Route:
        if isinstance(path, Foreign):
            if witness is not None:
                witness(Tried(Rule.RELAY, path, "asks for another host", True))
            return RELAY_DENIED
        postmaster = self.postmaster()
        if witness is not None:
            found = "there is none" if postmaster is None else "is that of this domain"
            witness(Tried(Rule.POSTMASTER, path, found, True, () if postmaster is None else (postmaster,)))
        return UNKNOWN if postmaster is None else self._expand(postmaster, asker, witness)

    def _expand(self, address: Address, asker: Asker, witness: Witness | None = None) -> Route:
        known = self._known.get(address)
        if known is not None and witness is None and is_unchanged(known[0]):
            return known[1]
        expansion = Expansion(self._rules, asker, witness)
        route = expansion.of(address)
        if expansion.direct is not None and (seen := self._directory.seen(*expansion.direct)) is not None:
            if len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            self._known[address] = seen, route
        return route


def _of_domain(root: str, domain: str, maildirs: str | None) -> str:
    return maildirs or os.path.join(root, domain)


@lru_cache(maxsize=8192)
def _path(root: str, domain: str, maildirs: str | None, local: str) -> str:
    return os.path.join(_of_domain(root, domain, maildirs), names.encode(fold_local(local)))


def _trouble(path: Address | Postmaster | Foreign, witness: Witness | None) -> Reply:
    if witness is not None:
        witness(Tried(Rule.FILES, path, "a file cannot be read; the log says which", True))
    return TROUBLE
