"""Operators on disk: `operators/<name>` has the form of a user's file, with other keys.

    <hash of the password>
    role = domain-admin
    domains = a.test b.test
    account = www-data
    enabled = yes

Plain synchronous Python. Not here: logging in, and what a role may do (`operators`, `operation`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from mailserver.admin.roles import Role
from mailserver.config.outgoing import uid_of
from mailserver.config.values import AccountName
from mailserver.directory import changes, users
from mailserver.directory.cache import Files
from mailserver.directory.entries import Malformed, Missing
from mailserver.durable import files
from mailserver.mail.address import AddressError, canonical_domain

OPERATORS = "operators"  # in the configuration directory
MOST_OCTETS = 64 * 1024
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")


class OperatorFile(NamedTuple):
    """What a file says; `uid` is the number of `account`, None where this machine has no such account."""

    password: str
    role: Role
    domains: frozenset[str] | None = None
    account: str | None = None
    uid: int | None = None
    enabled: bool = True


class OperatorFiles:
    """The files below `root`; a file changed by hand counts at the next look-up."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._files = Files(_parse, octets=MOST_OCTETS, entries=1000)

    def get(self, name: str) -> OperatorFile | None:
        """The operator `name`, enabled or not, or None. Raises Unavailable."""
        return self._files.get(f"{self.root}/{name}", None) if _NAME.fullmatch(name) else None

    def names(self) -> list[str]:
        """All of them, sorted. Raises OSError."""
        try:
            return sorted(name for name in os.listdir(self.root) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []

    def add(self, name: str, hashed: str, settings: Mapping[str, str]) -> None:
        """Raises Exists, Malformed, OSError."""
        if not _NAME.fullmatch(name):
            raise Malformed("expected a name of a-z, 0-9, dot, dash or underscore, 32 at most")
        content = users.render(hashed, dict(settings), KEYS)
        _parse(name, content, None)
        files.make_directory(self.root)
        with changes.locked(self.root, "no operators"):
            changes.create(f"{self.root}/{name}", content, f"operator {name} exists already")

    def set_password(self, name: str, hashed: str, expected: str | None = None) -> bool:
        """Set the hash; with `expected`, only where it is still that one. Says whether it was set.

        Raises Missing, Malformed, OSError.
        """
        with self._locked(name) as path:
            data = changes.content(path, MOST_OCTETS)
            if expected is not None and users.read(data, KEYS)[0] != expected:
                return False
            changes.rewrite(path, users.with_password(data, hashed, KEYS))
        return True

    def remove(self, name: str) -> None:
        """Raises Missing, OSError."""
        with self._locked(name) as path:
            changes.remove(path)

    @contextmanager
    def _locked(self, name: str) -> Iterator[str]:
        path = f"{self.root}/{name}"
        with changes.locked(self.root, f"no operator {name}"):
            if not _NAME.fullmatch(name) or not os.path.lexists(path):
                raise Missing(f"no operator {name}")
            yield path


def _parse(path: str, data: bytes, context: None) -> OperatorFile:
    password, settings = users.read(data, KEYS)
    if "role" not in settings:
        raise Malformed("expected a line such as role = auditor")
    account = settings.get("account")
    file = OperatorFile(password, **settings, uid=None if account is None else uid_of(account))
    if file.role is Role.OWNER and file.domains is not None:
        raise Malformed("domains: an owner has all of them")
    if file.role is Role.DOMAIN_ADMIN and file.domains is None:
        raise Malformed("expected a line such as domains = a.test b.test")
    return file


def _role(text: str) -> Role:
    if text not in ROLES:
        raise ValueError("expected " + ", ".join(ROLES))
    return Role(text)


def _domains(text: str) -> frozenset[str]:
    try:
        found = frozenset(map(canonical_domain, text.replace(",", " ").split()))
    except AddressError:
        raise ValueError("expected domains with blanks between them") from None
    if not found:
        raise ValueError("expected at least one domain")
    return found


ROLES = tuple(role.value for role in Role if role is not Role.USER)
KEYS: users.Keys = {"role": _role, "domains": _domains, "account": AccountName, "enabled": users.truth}
