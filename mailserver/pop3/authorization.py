"""The AUTHORIZATION state of a session: USER and PASS, or AUTH, until a maildrop is open.

A password is refused, and not looked at, where it would cross a network in clear text. Known and unknown
names get the same answers. Not here: lines and their grammar (`pop3.session`), what a response must look
like (`mail.sasl`), whether a password is right (`mta.authentication`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from mailserver import maillog
from mailserver.directory.entries import User
from mailserver.mail.sasl import RESPONSE_OCTETS, Credentials, Malformed, credentials, plain
from mailserver.mta.authentication import Login, Outcome
from mailserver.pop3 import answer
from mailserver.pop3.login import LastLogins, refusal
from mailserver.pop3.transaction import InUse, Maildrop, Transaction
from mailserver.transport.driver import Answer, Then
from mailserver.transport.listener import Peer

LOGIN_TRIES = 5

_SEND_PASSWORD = answer.ok("Send the password")


class BadCommand(Exception):
    """The client's line is none that is allowed now; the text is for the client."""


@dataclass(frozen=True)
class Policy:
    """What a listener allows and tells; times in seconds.

    `allow_cleartext`: logins without TLS from other machines. `starttls`: STLS is possible.
    `login_delay`: between two logins of a user (0: none). `trash_retention`: how long Trash keeps messages.
    """

    hostname: str
    starttls: bool
    allow_cleartext: bool
    login_delay: float
    trash_retention: float


class Authenticator(Protocol):
    """Decides on a name and a password; `mta.authentication` has the one that runs."""

    async def login(self, name: str, password: str, source: str, protocol: str) -> Login: ...


class Authorization:
    """The way of one client into its maildrop. `transaction` is set when it is there."""

    def __init__(
        self,
        peer: Peer,
        policy: Policy,
        authenticator: Authenticator,
        last_logins: LastLogins,
        open_maildrop: Callable[[User], Awaitable[Maildrop]],
    ) -> None:
        self.peer = peer
        self.policy = policy
        self.secure = peer.secure
        self.exchange = False
        """The next line is the client's response within AUTH."""
        self.user: User | None = None
        self.transaction: Transaction | None = None
        self._trusted = peer.is_local or policy.allow_cleartext
        self._authenticator = authenticator
        self._last_logins = last_logins
        self._open_maildrop = open_maildrop
        self._name: bytes | None = None
        self._tries = 0

    @property
    def allowed(self) -> bool:
        """RFC 2595 §2.1, RFC 8314 §3: no password in clear text over a network."""
        return self.secure or self._trusted

    def start_tls(self) -> None:
        """RFC 2595 §4: what was said before TLS is forgotten."""
        self.secure = True
        self._name = None

    def close(self) -> None:
        """The session is over, however: release the maildrop."""
        if self.transaction:
            self.transaction.close()

    def name(self, name: bytes) -> Answer:
        if not self.allowed:
            return _needs_tls()
        self._name = name
        return _SEND_PASSWORD

    def password(self, password: bytes) -> Answer | Awaitable[Answer]:
        if not self.allowed:
            return _needs_tls()
        if self._name is None:
            raise BadCommand("Expected USER before")
        name, self._name = self._name, None
        return self._login(credentials(name, password))

    def auth(self, mechanism: bytes, initial: bytes | None) -> Answer | Awaitable[Answer]:
        """RFC 5034 §4."""
        if not self.allowed:
            return _needs_tls()
        if mechanism.upper() != b"PLAIN":
            raise BadCommand("Unknown mechanism")
        if initial is None:
            self.exchange = True
            return answer.CHALLENGE
        return self.respond(b"" if initial == b"=" else initial)

    def respond(self, line: bytes) -> Answer | Awaitable[Answer]:
        """A client's response within AUTH."""
        self.exchange = False
        if line == b"*":
            return answer.err("AUTH cancelled")
        if len(line) + 2 > RESPONSE_OCTETS:
            raise BadCommand("Line too long")
        try:
            given = plain(line)
        except Malformed:
            raise BadCommand("Expected a PLAIN response in base64") from None
        return self._login(given)

    async def _login(self, given: Credentials | None) -> Answer:
        self._tries += 1
        if given:
            outcome, user = await self._authenticator.login(*given, self.peer.address, "pop3")
        else:
            outcome, user = Outcome.WRONG, None
        reply = await self._enter(user) if user else refusal(outcome)
        if self.transaction or self._tries < LOGIN_TRIES:
            return reply
        return reply._replace(then=Then.CLOSE)

    async def _enter(self, user: User) -> Answer:
        """The password was right: open the maildrop, and with it the TRANSACTION state."""
        delay = self.policy.login_delay
        if delay and self._last_logins.too_soon(user.address, delay):
            return answer.err("Logged in a moment ago, wait", answer.LOGIN_DELAY)
        try:
            maildrop = await self._open_maildrop(user)
        except InUse:
            return answer.err("Another session has the maildrop open", answer.IN_USE)
        self.user = user
        self.transaction = Transaction(maildrop, self.policy.trash_retention)
        if delay:
            self._last_logins.remember(user.address)
        maillog.count("pop3.logins")
        return answer.ok(f"Maildrop has {self.transaction.summary()}")


def _needs_tls() -> Answer:
    return answer.err("No login without TLS", answer.AUTH)  # RFC 3206 §4: an attempt against policy
