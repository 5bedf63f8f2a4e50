"""Who may administer: operators with files of their own, users for themselves, and accounts of this machine.

Logging in is that of mail sessions (`mta.authentication`): hashes off the loop, equal time and words for all
that is wrong, guesses slowed by where they come from. Not here: what an operator may do (`operation`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass

from mailserver import maillog
from mailserver.admin.accounts import require_possible
from mailserver.admin.entries import OperatorEntry
from mailserver.admin.operator_files import OPERATORS, OperatorFile, OperatorFiles
from mailserver.admin.refused import Refused
from mailserver.admin.roles import NOWHERE, Operator, Role
from mailserver.config.model import Config
from mailserver.config.outgoing import uid_of
from mailserver.directory import Directory, Exists, Missing, Unavailable, User, passwords
from mailserver.mail.address import Address
from mailserver.mail.quota import Quota
from mailserver.mta.authentication import Authenticator, Outcome
from mailserver.mta.counts import Counts
from mailserver.pool import Busy, Pool

_PLACE = "operators.invalid"  # RFC 6761 §6.4: nobody's domain; here that of names without one


class Operators:
    """The operators of a configuration; `pool` is for hashing, `counts` are guesses at all processes.

    Belongs to one event loop. What looks at files is quick; adding, removing and new passwords block.
    """

    def __init__(self, config: Config, pool: Pool, counts: Counts | None = None) -> None:
        self._pool = pool
        self._counts = counts or Counts()
        self._files = OperatorFiles(os.path.join(config.directory, OPERATORS))
        self._users = Directory(config.domains)
        self._passwords = config.passwords
        self._server = config.user
        self._authenticator = self._made()

    def follow(self, config: Config) -> None:
        """Go by another configuration of the same directory from now on."""
        if config.passwords != self._passwords:
            self._passwords = config.passwords
            self._authenticator = self._made()

    def _made(self) -> Authenticator:
        accounts, rules = _Accounts(self._users, self._files), self._passwords
        return Authenticator(
            accounts, self._pool, _PLACE, rules.upgrade, rules.failure_delay, counts=self._counts
        )

    # ---- who it is

    async def authenticate(self, name: str, password: str, source: str) -> Operator | None:
        """The operator `name`, or the user with the address `name`, if the password is right.

        None also for trouble with a file, which is in the log. Raises Busy where it was not looked at: too
        many are, or guesses come too fast from `source` (an IP address, or whatever names it).
        """
        login = await self._authenticator.login(name, password, source, "console")
        if login.outcome in (Outcome.BUSY, Outcome.DELAYED):
            raise Busy(self._pool.name)
        if login.outcome is not Outcome.OK or login.user is None:
            return None
        user = login.user
        if user.domain != _PLACE:
            address = Address(user.local, user.domain)
            return Operator(str(address), Role.USER, NOWHERE, address, kept=True)
        try:
            return self._kept(user.local, None)
        except Unavailable:
            return None

    def of_uid(self, uid: int) -> Operator | None:
        """Who a process of this account is without a password: root and the server's own account own all.

        Else the one operator whose file names the account; None where there is none, or several.
        """
        if uid in (0, os.geteuid()):
            return Operator(_account_name(uid), Role.OWNER, uid=uid)
        try:
            found = [name for name in self._files.names() if self._is_account(name, uid)]
        except OSError as error:
            maillog.event("operators-unavailable", error=error.strerror)
            return None
        if len(found) > 1:
            maillog.event("operators-share-account", operators=" ".join(found)[:200], uid=uid)
        return self._kept(found[0], uid) if len(found) == 1 else None

    def current(self, operator: Operator) -> Operator | None:
        """Who an operator is by now; None if he is none any more, or his file cannot be read."""
        if not operator.kept:
            return operator
        try:
            if operator.address is None:
                return self._kept(operator.name, operator.uid)
            user = self._users.user(operator.address.domain, operator.address.local)
        except Unavailable:  # logged where the file was read
            return None
        return operator if user is not None and user.enabled else None

    def _is_account(self, name: str, uid: int) -> bool:
        try:
            file = self._files.get(name)
        except Unavailable:
            return False
        return file is not None and file.enabled and file.uid == uid

    def _kept(self, name: str, uid: int | None) -> Operator | None:
        file = self._files.get(name)
        if file is None or not file.enabled or (uid is not None and uid != file.uid):
            return None
        return Operator(name, file.role, file.domains, kept=True, uid=uid)

    # ---- their files

    def list(self) -> list[OperatorEntry]:
        """All that can be read, by name. Raises OSError."""
        found = []
        for name in self._files.names():
            try:
                file = self._files.get(name)
            except Unavailable:
                continue
            if file is not None:
                found.append(_entry(name, file))
        return found

    def show(self, name: str) -> OperatorEntry:
        """Raises Missing, Unavailable."""
        file = self._files.get(name)
        if file is None:
            raise Missing(f"no operator {name}")
        return _entry(name, file)

    def add(
        self, name: str, role: str, password: str, domains: Iterable[str] = (), account: str | None = None
    ) -> OperatorEntry:
        """Raises Refused (the password), Exists, Malformed, OSError."""
        require_possible(password)
        if name in {"root", _account_name(os.geteuid()), self._server}:  # owners by their account: see of_uid
            raise Refused(f"{name} is an account that owns the server: take another name")
        if account is not None and (uid := uid_of(account)) is not None:
            for other in self._files.names():
                if self._is_account(other, uid):  # of two nobody would be it
                    raise Exists(f"account {account} is operator {other} already")
        given = {"role": role, "domains": " ".join(domains), "account": account}
        settings = {key: value for key, value in given.items() if value}
        self._files.add(name, passwords.hash_password(password), settings)
        return self.show(name)

    def set_password(self, operator: Operator, password: str) -> None:
        """Of an operator or a user. Raises Refused, Missing, Malformed, OSError."""
        require_possible(password)
        hashed = passwords.hash_password(password)
        if operator.address is not None:
            self._users.set_password(operator.address, hashed)
        else:
            self._files.set_password(operator.name, hashed)

    def remove(self, name: str) -> None:
        """Raises Missing, OSError."""
        self._files.remove(name)


@dataclass(frozen=True, slots=True)
class _Account(User):
    """An operator as the authenticator sees him."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.local)


class _Accounts:
    """Operators and users as `mta.authentication.Users`."""

    def __init__(self, users: Directory, files: OperatorFiles) -> None:
        self._users = users
        self._files = files

    def user(self, domain: str, local: str) -> User | None:
        if domain != _PLACE:
            return self._users.user(domain, local)
        file = self._files.get(local)
        return None if file is None else _Account(local, _PLACE, file.password, Quota(), file.enabled)

    def set_password(self, address: Address, password: str, *, expected: str | None = None) -> bool:
        if address.domain != _PLACE:
            return self._users.set_password(address, password, expected=expected)
        return self._files.set_password(address.local, password, expected)


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _entry(name: str, file: OperatorFile) -> OperatorEntry:
    domains = None if file.domains is None else tuple(sorted(file.domains))
    account = None if file.account is None else str(file.account)  # plain text, as it goes into JSON
    return OperatorEntry(name, file.role.value, domains, account, file.enabled)
