"""Who submits mail, and what he may: AUTH (RFC 4954), senders and allowances (RFC 6409).

Only who is logged in submits: by AUTH, over TLS or a UNIX socket, or as a process of this machine whose
uid vouches for it. Not here: the form of an exchange (`login`), where mail goes (`mta.routing`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mailserver.mail.address import Address
from mailserver.mail.reply import Reply
from mailserver.mail.sasl import Credentials, Malformed
from mailserver.mta.allowance import Allowance
from mailserver.mta.authentication import Login, Outcome
from mailserver.smtp import replies
from mailserver.smtp.login import Exchange, exchange
from mailserver.transport.listener import Peer

TRIES = 5  # AUTH commands of a session

_REFUSALS = {
    Outcome.WRONG: replies.WRONG_LOGIN,
    Outcome.BUSY: replies.LOGIN_BUSY,
    Outcome.UNAVAILABLE: replies.LOGIN_UNAVAILABLE,
    Outcome.DELAYED: replies.LOGIN_DELAYED,
}


class Authenticator(Protocol):
    """Decides on a name and a password; `mta.authentication` has the one that runs."""

    def login(self, name: str, password: str, source: str, protocol: str) -> Awaitable[Login]: ...


class Senders(Protocol):
    """Decides who sends as whom; `mta.senders` has the one that runs."""

    def refusal(self, user: Address | None, sender: Address | None) -> Reply | None: ...

    def postmaster(self) -> Address: ...


@dataclass(frozen=True)
class Submission:
    """What the sessions of a submission listener share.

    `hide_client`: the client's name and address do not go into the message. `vouched`: on UNIX sockets,
    the users as whom processes send, by uid; None for a process that sends as anybody here.
    """

    authenticator: Authenticator
    senders: Senders
    allowance: Allowance = field(default_factory=Allowance)
    hide_client: bool = False
    vouched: Mapping[int, Address | None] = field(default_factory=dict)


class Submitter(NamedTuple):
    """Who submits: `name` for log and queue; `address` is None for a trusted process of this machine."""

    name: str
    address: Address | None


class Submitting:
    """One session's part. `submitter` is None as long as nobody may send; `logged_in`: by AUTH."""

    def __init__(self, rules: Submission, peer: Peer) -> None:
        self.rules = rules
        self._peer = peer
        self._tries = 0
        self._exchange: Exchange | None = None
        self.forget()

    def forget(self) -> None:
        """TLS begins: who was logged in is so no more (RFC 4954 §4, RFC 3207 §4.2)."""
        self.submitter = self._vouched()
        self.logged_in = False

    def may_log_in(self, *, secure: bool) -> bool:
        """No password crosses a network in clear text (RFC 4954 §9, RFC 8314 §3)."""
        return secure or self._peer.address == "unix"

    async def begin(self, argument: str, *, secure: bool) -> Reply:
        """AUTH; a 334 wants the client's next line for `respond`."""
        if self.logged_in:
            return replies.LOGGED_IN_ALREADY  # RFC 4954 §4
        if not self.may_log_in(secure=secure):
            return replies.NEEDS_TLS
        self._exchange = exchange(argument)
        if self._exchange is None:
            return replies.NO_MECHANISM
        self._tries += 1
        if self._tries > TRIES:
            return replies.TOO_MANY_LOGINS
        return await self._step(None)

    async def respond(self, line: bytes | None) -> Reply:
        """The client's answer to a challenge, without CRLF; None if it was too long."""
        if line is None:
            return replies.RESPONSE_TOO_LONG
        if line == b"*":
            return replies.CANCELLED
        return await self._step(line)

    async def _step(self, line: bytes | None) -> Reply:
        assert self._exchange is not None
        try:
            return next(self._exchange) if line is None else self._exchange.send(line)
        except StopIteration as end:
            return await self._log_in(end.value)
        except Malformed:
            return replies.BAD_RESPONSE

    async def _log_in(self, given: Credentials | None) -> Reply:
        login = Login(Outcome.WRONG)
        if given is not None:
            login = await self.rules.authenticator.login(*given, self._peer.address, "submission")
        if login.user is None:
            return _REFUSALS[login.outcome]
        self.submitter = _user(Address(login.user.local, login.user.domain))
        self.logged_in = True
        return replies.LOGGED_IN

    def refusal(self, sender: Address | None) -> Reply | None:
        """Why no message of `sender` is taken now; None if it is."""
        if self.submitter is None:
            return replies.NEEDS_LOGIN
        refusal = self.rules.senders.refusal(self.submitter.address, sender)
        if refusal is None and self.submitter.address is not None:
            refusal = self.rules.allowance.refusal(self.submitter.name)
        return refusal

    def take(self) -> Reply | None:
        """Count a message, or say why it comes too soon. A trusted process has no limit."""
        if self.submitter is None or self.submitter.address is None:
            return None
        return self.rules.allowance.take(self.submitter.name)

    def give_back(self) -> None:
        """A message that was counted was not taken in."""
        if self.submitter is not None:
            self.rules.allowance.give_back(self.submitter.name)

    def _vouched(self) -> Submitter | None:
        uid = self._peer.uid
        if uid is None or self._peer.address != "unix" or uid not in self.rules.vouched:
            return None
        address = self.rules.vouched[uid]
        return Submitter(f"uid {uid}", None) if address is None else _user(address)


def _user(address: Address) -> Submitter:
    return Submitter(str(address), address)
