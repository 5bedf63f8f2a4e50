"""One address followed to where its mail goes: through aliases, to mailboxes, to other hosts, or to nobody.

The order of the rules is told in `mta.routing`. Who asks why is told of each rule as it is tried, by the
very code that decides (`route.Tried`). Not here: replies for trouble, quotas (`routing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mailserver import maillog
from mailserver.directory import Directory, Domain, Unavailable, User
from mailserver.mail.address import Address, AddressError, fold_local, is_rewritten, parse_mailbox
from mailserver.mail.reply import Reply
from mailserver.mailbox.maildir import Maildir
from mailserver.mta.forwarding import Forwarding
from mailserver.mta.route import (
    ALIAS_BROKEN,
    DISABLED,
    NO_FORWARDING,
    NO_RELAY,
    RELAY_DENIED,
    RETURN_ONLY,
    RETURN_UNKNOWN,
    UNKNOWN,
    Asker,
    Leaves,
    Local,
    Route,
    Rule,
    Tried,
    Witness,
)

EXPANSION = 1000  # addresses one recipient may lead to, over all aliases

_NO_LAST_RESORT = {
    Rule.CATCH_ALL: "the domain has none",
    Rule.POSTMASTER: "undeliverable_to_postmaster is off",
}
_RELAY_MARKS = frozenset("%!@")  # user%there@here, there!user@here, "user@there"@here


class Rules(NamedTuple):
    """What the rules go by; `maildir` gives a user's mailbox."""

    directory: Directory
    maildir: Callable[[Domain, str], Maildir]
    delimiter: str
    default_domain: str | None
    forwarding: Forwarding | None


class Expansion:
    """One recipient followed through aliases to mailboxes and other hosts; a loop ends where it began.

    `direct` is the user, and his domain, if the recipient is his very name, and nobody else was asked about.
    """

    __slots__ = ("_asker", "_directory", "_found", "_rules", "_seen", "_witness", "direct")

    def __init__(self, rules: Rules, asker: Asker, witness: Witness | None = None) -> None:
        self._rules = rules
        self._directory = rules.directory
        self._asker = asker
        self._witness = witness
        self._seen: set[Address] = set()
        self._found: dict[str | Address, Local | Leaves] = {}
        self.direct: tuple[Domain, User] | None = None

    def of(self, address: Address) -> Route:
        refusal = self._follow(address, None)
        if refusal is not None:
            return refusal
        return tuple(self._found.values()) or ALIAS_BROKEN

    def _follow(self, address: Address, alias: Address | None) -> Reply | None:
        """Add the places of `address`, to which `alias` led; a Reply if it has none."""
        key = _key(address)
        if key in self._seen:
            self._tried(Rule.CIRCLE, key, "was met before", True)
            return None
        if len(self._seen) >= EXPANSION:
            self._tried(Rule.CIRCLE, key, "leads to too many addresses", True)
            return ALIAS_BROKEN
        self._seen.add(key)
        domain = self._directory.domain(address.domain)
        self._tried(Rule.DOMAIN, key, "is not ours" if domain is None else "is ours")
        if domain is None:
            return self._lead_away(address, alias)
        if alias is None and self._rules.forwarding is not None and is_rewritten(address.local):
            return self._lead_back(address, self._rules.forwarding)
        for ours, name in self._candidates(domain, key):
            user = self._directory.user(ours, name.local)
            if user is not None:
                return self._add(ours, name, user)
            self._tried(Rule.USER, name, "there is none")
            targets = self._directory.alias(ours, name.local)
            if targets is not None:
                self._tried(Rule.ALIAS, name, "leads on", True, targets)
                return self._follow_all(name, targets)
            self._tried(Rule.ALIAS, name, "there is none")
        return self._undeliverable(domain, key)

    def _lead_away(self, address: Address, alias: Address | None) -> Reply | None:
        if alias is None and not self._asker.may_relay:
            self._tried(Rule.RELAY, address, "only for who has logged in, or is listed", True)
            return RELAY_DENIED
        forwarding = self._rules.forwarding
        if forwarding is None:
            self._tried(Rule.RELAY, address, "no mail leaves", True)
            return NO_FORWARDING if alias else NO_RELAY
        sender = self._asker.sender
        if alias is not None:
            sender = forwarding.sender(sender, alias, checked=self._asker.may_relay)
        self._found[address] = Leaves(address, sender, alias)
        self._tried(Rule.RELAY, address, f"leaves, from <{sender or ''}>", True)
        return None

    def _lead_back(self, address: Address, forwarding: Forwarding) -> Reply | None:
        """A valid code lets through a bounce to who sent the mail: nothing else, and nowhere else."""
        original = forwarding.original(address)
        if original is None:
            self._tried(Rule.RETURN, address, "was not made here, or too long ago", True)
            return RETURN_UNKNOWN
        if self._asker.sender is not None:
            self._tried(Rule.RETURN, address, "is for bounces, which have the null sender", True)
            return RETURN_ONLY
        self._tried(Rule.RETURN, address, "was made here for a sender", True, (original,))
        self._asker = Asker(self._asker.sender, may_relay=True)
        return self._follow(original, None)

    def _candidates(self, domain: Domain, key: Address) -> Iterator[tuple[Domain, Address]]:
        yield domain, key
        delimiter, default_domain = self._rules.delimiter, self._rules.default_domain
        untagged = key.local.partition(delimiter)[0] if delimiter else ""
        if untagged and untagged != key.local:
            yield domain, Address(untagged, domain.name)
        # RFC 5321 §4.5.1: postmaster is accepted in every domain
        if (untagged or key.local) == "postmaster" and default_domain:
            default = self._directory.domain(default_domain)
            if default is not None and default.name != domain.name:
                yield default, Address("postmaster", default.name)

    def _add(self, domain: Domain, address: Address, user: User) -> Reply | None:
        self._tried(Rule.USER, address, "is one", user.enabled)
        if not user.enabled:
            self._tried(Rule.ENABLED, address, "is disabled", True)
            return DISABLED
        if address in self._seen and len(self._seen) == 1:
            self.direct = domain, user
        maildir = self._rules.maildir(domain, user.local)
        self._found[maildir.path] = Local(address, maildir, user.quota)
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
            self._tried(Rule.RELAY, address, "asks for a relay by %, ! or @", True)
            return RELAY_DENIED
        for rule, target in self._last_resorts(domain):
            if target is None:
                self._tried(rule, address, _NO_LAST_RESORT[rule])
            elif _key(target) in self._seen:
                self._tried(rule, address, "was asked about before")
            else:
                self._tried(rule, address, "gets it", True, (target,))
                return self._follow(target, address)
        self._tried(Rule.DOMAIN, address, "has nobody of this name", True)
        return UNKNOWN

    def _last_resorts(self, domain: Domain) -> Iterator[tuple[Rule, Address | None]]:
        yield Rule.CATCH_ALL, None if domain.catch_all is None else _catch_all(domain, domain.catch_all)
        postmaster = Address("postmaster", domain.name) if domain.postmaster_gets_undeliverable else None
        yield Rule.POSTMASTER, postmaster

    def _tried(
        self,
        rule: Rule,
        subject: Address,
        found: str,
        decides: bool = False,
        leads_to: tuple[Address, ...] = (),
    ) -> None:
        if self._witness is not None:
            self._witness(Tried(rule, subject, found, decides, leads_to))


def _key(address: Address) -> Address:
    local = fold_local(address.local)
    return address if local == address.local else Address(local, address.domain)


def _catch_all(domain: Domain, text: str) -> Address:
    try:
        return parse_mailbox(text if "@" in text else f"{text}@{domain.name}")
    except AddressError:
        file = os.path.join(domain.directory, "domain.toml")
        raise Unavailable(file, "catch_all is no address") from None
