"""Domains, users and aliases: adding, removing, listing, showing; and finding a user's mailbox.

Every change is durable when the call returns and safe beside a running server and other callers.
Not here: the inside of mailboxes (`mailboxes`), the form of the files (`directory`), asking people.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace

from mailserver.admin import domain_file, removal
from mailserver.admin.entries import (
    AddedUser,
    AliasEntry,
    DomainDetails,
    DomainEntry,
    ListedAlias,
    RemovedDomain,
    RemovedUser,
    UserDetails,
    UserEntry,
)
from mailserver.admin.refused import Refused
from mailserver.admin.sentences import number
from mailserver.config import mail_places
from mailserver.directory import passwords
from mailserver.directory.database import Directory
from mailserver.directory.entries import Domain, Exists, Missing, Unavailable, User
from mailserver.mail.address import Address, canonical_domain, display_domain, fold_local, parse_mailbox
from mailserver.mailbox.maildir import Maildir
from mailserver.mta.routing import Mailboxes


class Accounts:
    """All operations on the directory database at `domains` and the mailboxes below `maildirs`."""

    def __init__(self, domains: str, maildirs: str) -> None:
        self.directory = Directory(domains)
        self.mailboxes = Mailboxes(maildirs)

    # ---- domains

    def add_domain(self, name: str, settings: Mapping[str, str | int | bool] | None = None) -> DomainDetails:
        """Add a domain with the keys of `domain.toml`.

        Raises Refused, Exists, AddressError, Malformed, OSError.
        """
        _require_public(name)
        self._require_free_place(name, (settings or {}).get("maildirs"))
        self.directory.add_domain(name, settings)
        return self.show_domain(name)

    def list_domains(self, domain: str | None = None) -> list[DomainEntry]:
        """One domain, or all by name. Raises Missing, AddressError, Unavailable, OSError."""
        return [DomainEntry(name, *self._counts(name)) for name in self._names(domain)]

    def show_domain(self, name: str) -> DomainDetails:
        """Raises Missing, AddressError, Unavailable, OSError."""
        domain = self.domain(name)
        return DomainDetails(
            domain.name,
            display_domain(domain.name),
            *self._counts(domain.name),
            domain.catch_all,
            domain.postmaster_gets_undeliverable,
            *domain.quota,
            self.mailboxes.of_domain(domain),
        )

    def set_domain(self, name: str, changes: domain_file.Changes) -> DomainDetails:
        """Change keys of `domain.toml`, None to take one out.

        Raises Refused, Missing, AddressError, Malformed, Unavailable, OSError.
        """
        domain = self.domain(name)
        self._require_free_place(domain.name, changes.get("maildirs"))
        domain_file.change(domain, changes)
        return self.show_domain(name)

    def settle_domain(self, name: str, maildirs: str, undeliverable_to_postmaster: bool) -> DomainDetails:
        """Have a domain with its mailboxes in `maildirs`, added unless it is there; see `settle_user`.

        Raises Refused where its mailboxes are elsewhere; AddressError, Malformed, Unavailable, OSError.
        """
        with suppress(Exists):
            self.add_domain(name, {"maildirs": maildirs})
        domain = self.domain(name)
        if self.mailboxes.of_domain(domain) != maildirs:
            raise Refused(f"{domain.name} has its mail in {self.mailboxes.of_domain(domain)} already")
        if undeliverable_to_postmaster and not domain.postmaster_gets_undeliverable:
            domain_file.change(domain, {"undeliverable_to_postmaster": True})
        return self.show_domain(name)

    def remove_domain(
        self, name: str, *, with_users: bool = False, delete_mail: bool = False
    ) -> RemovedDomain:
        """Remove a domain and its aliases; its users too only `with_users`, as `remove_user` does.

        Raises Refused while it has users otherwise; Missing, AddressError, Unavailable, OSError.
        """
        domain = self.domain(name)
        users = sorted(self.directory.users(domain.name))
        if users and not with_users:
            there = number(len(users), "user")
            raise Refused(f"{domain.name} has {there}: remove them first, or say --with-users")
        removed = []
        for local in users:
            removed.append(self._remove_user(domain, Address(local, domain.name), delete_mail))
        self.directory.remove_domain(domain.name)
        return RemovedDomain(domain.name, tuple(removed))

    # ---- users

    def add_user(
        self, address: Address, password: str, settings: Mapping[str, str] | None = None
    ) -> AddedUser:
        """Add a user with an empty mailbox, or with the one that is there.

        Raises Refused, Exists, Missing (the domain), Malformed, Unavailable, OSError.
        """
        address = _key(address)
        domain = self.domain(address.domain)
        self.require_free(address)
        hashed = _hash(password)
        maildir = self._mailbox(domain, address)
        maildir.create()  # before the user: who exists can receive and log in
        self.directory.add_user(address, hashed, settings)
        aside = removal.set_aside(maildir.path)
        return AddedUser(str(address), maildir.path, len(maildir.scan()), tuple(aside))

    def settle_user(self, address: Address, password: str) -> None:
        """Have a user with this password: added, or changed only where it is not so already.

        Raises Refused, Missing (the domain), Malformed, Unavailable, OSError.
        """
        user = self.directory.user(address.domain, address.local)
        if user is None:
            self.add_user(address, password)
        elif not _is_password(password, user.password):
            self.set_password(address, password)

    def list_users(self, domain: str | None = None) -> list[UserEntry]:
        """Users of a domain, or of all, by address. Raises Missing, AddressError, Unavailable, OSError."""
        found = [Address(local, name) for name in self._names(domain) for local in self.directory.users(name)]
        return [UserEntry(str(address)) for address in sorted(found, key=_by_domain)]

    def show_user(self, address: Address) -> UserDetails:
        """Raises Missing, Unavailable, OSError."""
        user, maildir = self.user(address)
        return UserDetails(user.address, user.enabled, *user.quota, maildir.path)

    def set_password(self, address: Address, password: str) -> None:
        """Raises Refused, Missing, Malformed, OSError."""
        self.directory.set_password(_key(address), _hash(password))

    def set_user(self, address: Address, changes: Mapping[str, str | None]) -> UserDetails:
        """Change keys of a user's file, None to take one out.

        Raises Missing, Malformed, Unavailable, OSError.
        """
        self.directory.set_user(_key(address), changes)
        return self.show_user(address)

    def remove_user(self, address: Address, *, delete_mail: bool = False) -> RemovedUser:
        """Remove a user; the mail is put aside beside the domain's mailboxes, or deleted for good.

        Raises Missing, Unavailable, OSError.
        """
        address = _key(address)
        domain = self.domain(address.domain)
        removed = self._remove_user(domain, address, delete_mail)
        return replace(removed, still_led_to=tuple(self._leading_to(domain, address)))

    def _leading_to(self, domain: Domain, address: Address) -> Iterator[str]:
        """What of the domain leads to an address; an alias that cannot be read is for `check` to tell."""
        for local in sorted(self.directory.aliases(domain.name)):
            with suppress(Unavailable):
                if address in map(_key, self.directory.alias(domain.name, local) or ()):
                    yield f"{local}@{domain.name}"
        if domain.catch_all is not None and _key(parse_mailbox(domain.catch_all)) == address:
            yield f"*@{domain.name}"

    def _remove_user(self, domain: Domain, address: Address, delete_mail: bool) -> RemovedUser:
        path = self._mailbox(domain, address).path
        self.directory.remove_user(address)  # first: from now on nothing more is taken in
        if not os.path.lexists(path):
            return RemovedUser(str(address), "none", None)
        aside = removal.put_aside(path)
        if os.path.islink(aside):  # somebody moved the mail elsewhere; what is there is not ours to delete
            return RemovedUser(str(address), "kept", os.path.realpath(aside))
        if not delete_mail:
            return RemovedUser(str(address), "kept", aside)
        removal.delete(aside)
        return RemovedUser(str(address), "deleted", None)

    # ---- aliases

    def add_alias(self, address: Address, targets: Sequence[Address]) -> AliasEntry:
        """Raises Refused, Exists, Missing (the domain), Malformed, Unavailable, OSError."""
        address = _key(address)
        if address in map(_key, targets):
            raise Refused(f"{address} cannot lead to itself")
        self.require_free(address)
        try:
            self.directory.add_alias(address, targets)
        except ValueError as error:
            raise Refused(f"{address}: {error}") from None
        return self.show_alias(address)

    def list_aliases(self, domain: str | None = None) -> list[ListedAlias]:
        """Aliases of a domain, or of all, by address; those that cannot be read are the last.

        Raises Missing, AddressError, Unavailable, OSError.
        """
        found = [
            Address(local, name) for name in self._names(domain) for local in self.directory.aliases(name)
        ]
        good, bad = [], []
        for address in sorted(found, key=_by_domain):
            try:
                targets = self.directory.alias(address.domain, address.local)
            except Unavailable as error:
                bad.append(ListedAlias(str(address), (), error.reason))
                continue
            if targets is not None:  # else removed meanwhile
                good.append(ListedAlias(str(address), tuple(map(str, targets)), ""))
        return good + bad

    def show_alias(self, address: Address) -> AliasEntry:
        """Raises Missing, Unavailable."""
        address = _key(address)
        targets = self.directory.alias(address.domain, address.local)
        if targets is None:
            raise Missing(f"no alias {address}")
        return AliasEntry(str(address), tuple(map(str, targets)))

    def remove_alias(self, address: Address) -> None:
        """Raises Missing, OSError."""
        self.directory.remove_alias(_key(address))

    # ---- looked up

    def domain(self, name: str) -> Domain:
        """Raises Missing, AddressError, Unavailable."""
        domain = self.directory.domain(canonical_domain(name))
        if domain is None:
            raise Missing(f"no domain {name}")
        return domain

    def user(self, address: Address) -> tuple[User, Maildir]:
        """A user and the mailbox. Raises Missing, Unavailable."""
        domain = self.domain(address.domain)
        user = self.directory.user(domain.name, address.local)
        if user is None:
            raise Missing(f"no user {address}")
        return user, self.mailboxes.of(domain, user.local)

    def require_free(self, address: Address) -> None:
        """Raises Exists where a user or an alias has the address; Missing (the domain), Unavailable."""
        self.domain(address.domain)
        if self.directory.user(address.domain, address.local) is not None:
            raise Exists(f"user {address} exists already")
        if self.directory.alias(address.domain, address.local) is not None:
            raise Exists(f"alias {address} exists already")

    def _require_free_place(self, name: str, maildirs: object) -> None:
        """Raises Refused for a domain's directory that is something else's; its form is looked at later."""
        if isinstance(maildirs, str) and maildirs.startswith("/") and maildirs.isprintable():
            place = canonical_domain(name), maildirs
            if problem := mail_places.trouble(*place, self.directory, self.mailboxes.root):
                raise Refused(f"maildirs: {problem}")

    def _mailbox(self, domain: Domain, address: Address) -> Maildir:
        try:
            return self.mailboxes.of(domain, address.local)
        except ValueError as error:
            raise Refused(f"{address}: {error}") from None

    def _names(self, domain: str | None) -> list[str]:
        return sorted(self.directory.domains()) if domain is None else [self.domain(domain).name]

    def _counts(self, name: str) -> tuple[int, int]:
        return sum(1 for _ in self.directory.users(name)), sum(1 for _ in self.directory.aliases(name))


def _key(address: Address) -> Address:
    return Address(fold_local(address.local), address.domain)


def _by_domain(address: Address) -> tuple[str, str]:
    return address.domain, address.local


def _require_public(name: str) -> None:
    """Below `invalid` there are names for a program's own use alone (RFC 6761 §6.4)."""
    if canonical_domain(name).rpartition(".")[2] == "invalid":
        raise Refused(f"{name} is nobody's domain")


def _is_password(password: str, stored: str) -> bool:
    try:
        return passwords.verify(password, stored).ok
    except passwords.MalformedHash:
        return False


def require_possible(password: str) -> None:
    """Raises Refused for a password that is empty, too long, or cannot be typed."""
    if not password or not passwords.is_possible(password):
        raise Refused(f"expected a password of 1 to {passwords.MAX_PASSWORD} octets")
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in password):
        raise Refused("expected a password without control characters")


def _hash(password: str) -> str:
    require_possible(password)
    return passwords.hash_password(password)
