"""The directory database under `config/domains`: look-ups while mail flows, and changes by operators.

Look-ups cost a stat or two, no listing, and nothing at the start, however many users there are. Names from
clients become paths here and only here, by way of `names.encode`. Not here: the forms of the files
(`domains`, `users`, `aliases`), the order of user, alias and catch-all (`mta.routing`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from mailserver.directory import aliases, changes, domains, names, users
from mailserver.directory.cache import Files, Kept, Seen
from mailserver.directory.entries import Domain, Exists, Missing, Unavailable, User
from mailserver.durable.files import is_directory
from mailserver.mail.address import Address, AddressError, canonical_domain, display_domain, fold_local
from mailserver.mail.quota import Quota

USERS = "users"
ALIASES = "aliases"

_WORDS = {USERS: "user", ALIASES: "alias"}


class Directory:
    """The database below `root`. Look-ups may come from any thread.

    A domain is a directory named by its A-labels or, as people may make it, by its U-labels; the A-labels
    count where both are there. Local parts are taken as clients write them and compared folded.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._directories = Kept(_has_settings)
        self._domains = Files(_parse_domain, octets=domains.MOST_OCTETS)
        self._users = Files(_parse_user, octets=users.MOST_OCTETS)
        self._aliases = Files(_parse_alias, octets=aliases.MOST_OCTETS)

    # ---- look-ups

    def domain(self, name: str) -> Domain | None:
        """The domain `name`, in A-labels or U-labels, or None if it is not ours. Raises Unavailable."""
        try:
            places = _places(self.root, canonical_domain(name))
        except AddressError:
            return None
        for plain in places:
            if (ours := self._domain_at(plain)) is not None:
                return ours
        if self._directories.get(self.root, None) is None:  # rather a disk that is missing
            raise self._domains.unavailable(self.root, "no such directory")
        return None

    def user(self, domain: str | Domain, local: str) -> User | None:
        """The user `local` of `domain`, enabled or not, or None. Raises Unavailable.

        Who has just looked the domain up gives that, and it is not looked up again.
        """
        ours = self.domain(domain) if isinstance(domain, str) else domain
        if ours is None or (path := _path(ours.directory, USERS, local)) is None:
            return None
        return self._users.get(path, ours)

    def seen(self, domain: Domain, user: User) -> tuple[Seen, Seen] | None:
        """What both were made of: as long as `is_unchanged` says so, both are found again.

        None where that cannot be told: files are too new, or the domain's other spelling would go before.
        """
        plain = _places(self.root, domain.name)[0]
        path = _path(plain.directory, USERS, user.local)
        if domain is plain:
            first = self._directories.seen(domain.directory, False)
        else:
            first = self._domains.seen(f"{plain.directory}/{domains.FILE}", domain)
        second = None if path is None else self._users.seen(path, user)
        return None if first is None or second is None else (first, second)

    def alias(self, domain: str | Domain, local: str) -> tuple[Address, ...] | None:
        """The targets of the alias `local` of `domain`, at least one, or None. Raises Unavailable."""
        ours = self.domain(domain) if isinstance(domain, str) else domain
        if ours is None or (path := _path(ours.directory, ALIASES, local)) is None:
            return None
        return self._aliases.get(path, ours)

    # ---- lists, in no order; files that are named by no key are left out

    def domains(self) -> Iterator[str]:
        """The names of all domains, in A-labels. Raises OSError."""
        with os.scandir(self.root) as found:
            yield from {name for entry in found if is_directory(entry) and (name := domain_named(entry.name))}

    def users(self, domain: str) -> Iterator[str]:
        """The local parts of all users of a domain. Raises Missing, Unavailable, OSError."""
        return self._keys(domain, USERS)

    def aliases(self, domain: str) -> Iterator[str]:
        """The local parts of all aliases of a domain. Raises Missing, Unavailable, OSError."""
        return self._keys(domain, ALIASES)

    # ---- changes, durable when they return; safe beside a server and beside each other

    def add_domain(self, name: str, settings: Mapping[str, str | int | bool] | None = None) -> None:
        """Add a domain, with the keys of `domain.toml`. Raises Exists, AddressError, Malformed, OSError."""
        name = canonical_domain(name)
        content = domains.render(settings, name) if settings else None
        changes.add_domain(self.root, _spellings(name), content)

    def remove_domain(self, name: str) -> None:
        """Remove a domain without users, with its aliases. Raises Missing, Exists (users), OSError."""
        ours = self._existing(name)
        with changes.locked(ours.directory, f"no domain {ours.name}"):
            if any(self.users(ours.name)):
                raise Exists(f"{ours.name} still has users")
            changes.remove_tree(ours.directory)

    def add_user(self, address: Address, password: str, settings: Mapping[str, str] | None = None) -> None:
        """Add a user with a password hash and the keys of a user's file.

        Raises Exists, Missing (the domain), Malformed, ValueError (no such local part), OSError.
        """
        content = users.render(password, dict(settings or {}))
        self._create(address, USERS, content)

    def set_password(self, address: Address, password: str, *, expected: str | None = None) -> bool:
        """Set a user's password hash; with `expected`, only where the hash is still that one.

        Returns whether it was set. Raises Missing, Malformed, OSError.
        """
        with self._locked(address, USERS) as path:
            data = changes.content(path, users.MOST_OCTETS)
            if expected is not None and users.parse(data).password != expected:
                return False
            changes.rewrite(path, users.with_password(data, password))
        return True

    def set_user(self, address: Address, settings: Mapping[str, str | None]) -> None:
        """Set, or with None remove, keys of a user's file. Raises Missing, Malformed, OSError."""
        with self._locked(address, USERS) as path:
            data = changes.content(path, users.MOST_OCTETS)
            changes.rewrite(path, users.with_settings(data, dict(settings)))

    def remove_user(self, address: Address) -> None:
        """Remove a user; the mailbox stays. Raises Missing, OSError."""
        with self._locked(address, USERS) as path:
            changes.remove(path)

    def add_alias(self, address: Address, targets: Iterable[Address]) -> None:
        """Add an alias. Raises Exists, Missing (the domain), Malformed, ValueError, OSError."""
        content = aliases.render(targets, address.domain)
        self._create(address, ALIASES, content)

    def remove_alias(self, address: Address) -> None:
        """Remove an alias. Raises Missing, OSError."""
        with self._locked(address, ALIASES) as path:
            changes.remove(path)

    # ---- inside

    def _existing(self, name: str) -> Domain:
        if (ours := self.domain(name)) is None:
            raise Missing(f"no domain {name}")
        return ours

    def _keys(self, domain: str, kind: str) -> Iterator[str]:
        files = listed(f"{self._place(domain)}/{kind}")
        return (key for _, key in files if key is not None)

    def _place(self, name: str) -> str:
        """Where the files of a domain are, also of one whose settings cannot be read."""
        try:
            return self._existing(name).directory
        except Unavailable:
            for plain in _places(self.root, canonical_domain(name)):
                if os.path.isdir(plain.directory):
                    return plain.directory
            raise

    def _domain_at(self, plain: Domain) -> Domain | None:
        """The domain in a directory, at one stat: of its settings, or of the directory if it has none.

        The directory's times tell whether settings came; of settings that are there, it says nothing.
        """
        settings = f"{plain.directory}/{domains.FILE}"
        if settings in self._domains and (ours := self._domains.get(settings, plain)):
            return ours
        has_settings = self._directories.get(plain.directory, None)
        if has_settings and (ours := self._domains.get(settings, plain)):
            return ours
        return None if has_settings is None else plain

    def _create(self, address: Address, kind: str, content: bytes) -> None:
        ours = self._existing(address.domain)
        path = f"{ours.directory}/{kind}/{names.encode(fold_local(address.local))}"
        with changes.locked(ours.directory, f"no domain {ours.name}"):
            changes.create(path, content, f"{address} exists already")

    @contextmanager
    def _locked(self, address: Address, kind: str) -> Iterator[str]:
        """The path of an entry that is there, while nobody else changes it."""
        ours = self._existing(address.domain)
        path = _path(ours.directory, kind, address.local)
        with changes.locked(ours.directory, f"no domain {ours.name}"):
            if path is None or not os.path.lexists(path):
                raise Missing(f"no {_WORDS[kind]} {address}")
            yield path


def listed(directory: str) -> Iterator[tuple[str, str | None]]:
    """The files of a directory and their keys, None for a name of no key; hidden ones are left out."""
    try:
        with os.scandir(directory) as found:
            for entry in found:
                if not entry.name.startswith("."):
                    yield entry.path, names.decode(entry.name)
    except FileNotFoundError:
        return  # a domain of aliases alone, or of users alone


def domain_named(file_name: str) -> str | None:
    """The domain whose directory may have this name, in A-labels."""
    try:
        name = canonical_domain(file_name)
    except AddressError:
        return None
    return name if file_name in _spellings(name) else None


@lru_cache(maxsize=4096)
def _spellings(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((name, display_domain(name))))


@lru_cache(maxsize=4096)
def _places(root: str, name: str) -> tuple[Domain, ...]:
    """The domain at each place where it may be, as it is without settings."""
    return tuple(Domain(name, f"{root}/{spelling}") for spelling in _spellings(name))


@lru_cache(maxsize=8192)
def _path(directory: str, kind: str, local: str) -> str | None:
    try:
        return f"{directory}/{kind}/{names.encode(fold_local(local))}"
    except ValueError:
        return None


def _has_settings(directory: str, found: os.stat_result, _: None) -> bool | None:
    """None for what is no directory."""
    if not stat.S_ISDIR(found.st_mode):
        return None
    return os.access(f"{directory}/{domains.FILE}", os.F_OK, follow_symlinks=False)


def _parse_domain(path: str, data: bytes, plain: Domain) -> Domain:
    return domains.parse(data, plain.name, plain.directory)


def _parse_user(path: str, data: bytes, ours: Domain) -> User:
    file = users.parse(data)
    local = names.decode(os.path.basename(path)) or ""
    quota = Quota(
        ours.quota.storage if file.quota is None else file.quota,
        ours.quota.messages if file.quota_messages is None else file.quota_messages,
    )
    return User(local, ours.name, file.password, quota, file.enabled, ours.maildirs)


def _parse_alias(path: str, data: bytes, ours: Domain) -> tuple[Address, ...]:
    return aliases.parse(data, ours.name)
