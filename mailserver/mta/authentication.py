"""Who may log in: a name and a password against the directory, slowed down for guessers, never locked.

Whoever fails learns nothing from words, codes or time. Who guesses is slowed by where he comes from, so no
one can lock somebody else's account (`guesses`). Not here: the hashes (`directory.passwords`), the dialogue
(`smtp`, `pop3`), tries per connection, and whether the connection may carry a password at all.
"""

from __future__ import annotations

import asyncio
import enum
import time
from hashlib import blake2b
from typing import NamedTuple, Protocol

from mailserver import maillog
from mailserver.directory import Unavailable, User, passwords
from mailserver.mail.address import Address, AddressError, canonical_domain, parse_mailbox
from mailserver.mta.counts import Counts
from mailserver.mta.guesses import Clock, Sleep, Sources, TooManyGuesses, network_of
from mailserver.pool import Busy, Pool

MOST_NAME = 320  # characters of a login name: 64 + "@" + 255


class Users(Protocol):
    """Who has a password: `directory.Directory`, for one."""

    def user(self, domain: str, local: str) -> User | None:
        """The user, enabled or not, or None. Raises Unavailable."""

    def set_password(self, address: Address, password: str, *, expected: str | None = None) -> bool:
        """Set the hash where it is still `expected`; says whether it was. Raises LookupError, OSError, ..."""


class Outcome(enum.StrEnum):
    """All but OK and WRONG are no verdict on the password: the client may come again later."""

    OK = "ok"
    WRONG = "failed"
    BUSY = "busy"  # too many passwords are being checked
    UNAVAILABLE = "unavailable"  # the user's file or hash is unreadable: trouble of ours
    DELAYED = "delayed"  # too many wrong guesses from this source; this one was not looked at


class Login(NamedTuple):
    """`user` is there for OK and for nothing else."""

    outcome: Outcome
    user: User | None = None


class Authenticator:
    """Logins of all sessions of a process. Belongs to one event loop; hashing happens in `pool`.

    `failure_delay`: seconds from the check to the answer of a failed login, longer than the slowest hash
    takes. `remember`: seconds for which a right password is not hashed again for the network it came from.
    `counts` are those of all processes.
    `upgrade`: a hash of an old scheme is renewed at a good login.
    """

    def __init__(
        self,
        users: Users,
        pool: Pool,
        default_domain: str | None,
        upgrade: bool,
        failure_delay: float,
        *,
        remember: float = 300.0,
        counts: Counts | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._users = users
        self._pool = pool
        self._default_domain = canonical_domain(default_domain) if default_domain else None
        self._upgrade = upgrade
        self._failure_delay = failure_delay
        self._clock = clock
        self._sleep = sleep
        counts = counts or Counts()
        self._verified = Verified(remember, clock, counts)
        self._sources = Sources(clock, sleep, counts)

    async def login(self, name: str, password: str, source: str, protocol: str | None = None) -> Login:
        """Check a login: `name` an address, or a local part of the default domain; `source` an IP address.

        `protocol` is for the log. Never raises for what a client sent, or for trouble with a user's file.
        """
        reason, began = None, 0.0
        try:
            login, began = await self._judge(name, password, source)
        except Unavailable:  # logged where the file was read
            login = Login(Outcome.UNAVAILABLE)
        except passwords.MalformedHash as error:
            login, reason = Login(Outcome.UNAVAILABLE), str(error)
        except Busy:
            login = Login(Outcome.BUSY)
        except TooManyGuesses:
            login = Login(Outcome.DELAYED)
        except asyncio.CancelledError:
            _log("abandoned", name, source, protocol)
            raise
        _log(login.outcome, login.user.address if login.user else name, source, protocol, reason)
        if login.outcome is Outcome.WRONG:
            await self._hold_back(began)
        return login

    async def _hold_back(self, began: float) -> None:
        """Wait for a whole number of delays: equal times for no user, no password and every scheme."""
        if self._failure_delay > 0:
            await self._sleep(self._failure_delay - (self._clock() - began) % self._failure_delay)

    async def _judge(self, name: str, password: str, source: str) -> tuple[Login, float]:
        """The verdict, and when the check began. Raises what stands in the way of one."""
        address, network = self._address(name), network_of(source)
        if user := self._at_once(address, password, network):
            return Login(Outcome.OK, user), self._clock()  # no guess, so it waits behind none
        line = self._sources.line(network)
        async with line.turn():
            began = self._clock()
            user = self._user(address)
            if user and self._verified.knows(user, password, network):  # by another session meanwhile
                return Login(Outcome.OK, user), began
            try:
                verdict = await self._verify(user, password)
            except asyncio.CancelledError:
                line.failed()  # hanging up before the answer saves nobody the penalty
                raise
            if user is None or not verdict.ok:
                line.failed()
                return Login(Outcome.WRONG), began
        self._verified.add(user, password, network)
        self._sources.no_guess(network, user.address)
        if verdict.outdated and self._upgrade:
            await self._renew(user, password)
        return Login(Outcome.OK, user), began

    def _address(self, name: str) -> Address | None:
        if "@" not in name and self._default_domain:
            name = f"{name}@{self._default_domain}"
        try:
            return parse_mailbox(name) if len(name) <= MOST_NAME else None
        except AddressError:
            return None

    def _at_once(self, address: Address | None, password: str, network: str) -> User | None:
        """Ask the memory, outside the line of guessers: it answers one try in vain, then none for a while.

        Else a guesser could ask it for as many passwords as he likes of a user of his own network.
        """
        user = self._user(address)
        if user is None or self._sources.was_in_vain(network, user.address):
            return None
        if self._verified.knows(user, password, network):
            return user
        self._sources.in_vain(network, user.address)
        return None

    def _user(self, address: Address | None) -> User | None:
        user = self._users.user(address.domain, address.local) if address else None
        return user if user and user.enabled else None

    async def _verify(self, user: User | None, password: str) -> passwords.Verdict:
        """One hash in every case but that of a text too long to be hashed."""
        if not passwords.is_possible(password):
            return passwords.Verdict(False, False)
        stored = user.password if user else passwords.DUMMY
        return await self._pool.run(passwords.verify, password, stored)

    async def _renew(self, user: User, password: str) -> None:
        """Store today's kind of hash, unless the password was changed meanwhile. Failure is only logged."""

        def renew() -> bool:
            fresh = passwords.hash_password(password)
            return self._users.set_password(Address(user.local, user.domain), fresh, expected=user.password)

        try:
            outcome = "ok" if await self._pool.run(renew) else "changed"
        except (Busy, Unavailable, OSError, LookupError, ValueError) as error:
            outcome = type(error).__name__
        maillog.event("hash-renewed", user=user.address, outcome=outcome)


def _log(outcome: str, name: str, source: str, protocol: str | None, reason: str | None = None) -> None:
    maillog.count(f"login.{outcome}")
    maillog.event(
        "login", outcome=outcome, user=name[:MOST_NAME], peer=source, protocol=protocol, reason=reason
    )


class Verified:
    """Logins that were right a moment ago, in any process: clients which poll each minute cost nothing.

    Keyed by a keyed hash of network, user, stored hash and password under a key of the server's processes: no
    password is kept, and a changed hash makes the entry unreachable. Only right passwords are here, and each
    only for the network it came from: elsewhere, where it passes no line of guessers, it would confirm a
    guess.
    """

    def __init__(self, seconds: float, clock: Clock, counts: Counts) -> None:
        self._seconds = seconds
        self._clock = clock
        self._key = counts.key
        self._logins = counts.logins  # when each ends

    def knows(self, user: User, password: str, network: str) -> bool:
        row = self._logins.find(self._token(user, password, network))
        return row is not None and row[0] > self._clock()

    def add(self, user: User, password: str, network: str) -> None:
        now = self._clock()
        self._logins.take(self._token(user, password, network), now)[0] = now + self._seconds

    def _token(self, user: User, password: str, network: str) -> str:
        text = "\0".join((network, user.address, user.password, password))  # a NUL is in the last one at most
        return blake2b(text.encode(errors="surrogatepass"), key=self._key, digest_size=32).hexdigest()
