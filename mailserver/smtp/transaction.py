"""The SMTP dialogue without a network: what each command means and which reply it gets.

One `Transaction` lives as long as its session; MAIL begins a message, its commit or RSET ends it. The
server module reads commands, calls these methods and sends what they return. LMTP (RFC 2033) is the same
dialogue with LHLO and one reply per recipient.
Not here: sockets, aiosmtpd, asyncio, TLS (`smtp.server`); routes (`mta.routing`); storing (`mta.reception`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Coroutine, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.path import Foreign, Postmaster
from mailserver.mail.reply import Reply
from mailserver.mta.dispatch import Accepted
from mailserver.mta.reception import NO_SPACE, Reception, Told
from mailserver.mta.route import ANYBODY, Asker, Leaves, Local, Route
from mailserver.smtp import arguments, replies
from mailserver.smtp.arguments import Wanted
from mailserver.smtp.content import Content
from mailserver.smtp.incoming import Client, Incoming, Policy
from mailserver.smtp.login import KEYWORD
from mailserver.smtp.submission import Submitting

__all__ = ["Chunk", "Policy", "Router", "Transaction"]

_HELLO_NAME = re.compile(r"[^\x00-\x20\x7f-\xa0\ud800-\udfff]{1,255}")
_CHUNK = re.compile(r"([0-9]{1,19})(?: +(LAST))?", re.ASCII | re.IGNORECASE)


class Router(Protocol):
    """Where mail for an address goes; `mta.routing.Routing`, or a table in a test."""

    def decide(
        self, path: Address | Postmaster | Foreign, size: int, asker: Asker
    ) -> Route | Awaitable[Route]: ...


class Chunk(NamedTuple):
    """A valid BDAT command: so many octets follow, `refused` says why they are only dropped."""

    octets: int
    last: bool
    refused: Reply | None


@lru_cache(maxsize=64)
def _offer(policy: Policy, starttls: bool, login: bool) -> Reply:
    """The answer to EHLO and LHLO."""
    keywords = [
        policy.hostname,
        f"SIZE {policy.message_size}",
        "8BITMIME",
        "SMTPUTF8",
        "PIPELINING",
        "CHUNKING",
        "ENHANCEDSTATUSCODES",
        f"LIMITS RCPTMAX={policy.recipients}",
    ]
    if not policy.lmtp:  # RFC 2033: the client has the queue, and the means to report
        keywords.insert(-1, "DSN")
    if starttls:
        keywords.append("STARTTLS")
    if login:
        keywords.append(KEYWORD)
    return Reply(250, "", "\n".join([*keywords, "HELP"]))


class Transaction:
    """The state of one session. `peer` is the client's IP address, or `unix`.

    `submitting` is there on a listener for submission: then nobody sends who is not logged in, and who is
    may send anywhere.
    """

    secure = False
    hello_name = ""
    extended = False
    _envelope: Envelope | None = None
    _asker = ANYBODY
    content: Content | None = None
    """The content to feed, between DATA or the first BDAT and its end."""
    _incoming: Incoming | None = None
    _finishing: Incoming | None = None
    _size = 0

    def __init__(
        self,
        policy: Policy,
        router: Router,
        reception: Reception,
        peer: str,
        submitting: Submitting | None = None,
    ) -> None:
        self.policy = policy
        self._router = router
        self._reception = reception
        self._peer = peer
        self._submitting = submitting
        self._accepted: list[Accepted] = []

    # -- session ---------------------------------------------------------------------------------

    def hello(self, name: str, *, extended: bool, starttls: bool) -> Reply:
        """HELO, EHLO or LHLO; `starttls` tells whether TLS can be offered now."""
        if not _HELLO_NAME.fullmatch(name):
            return replies.HELLO_SYNTAX
        self.reset()
        self.hello_name, self.extended = name, extended
        if not extended:
            return Reply(250, "", self.policy.hostname)
        login = self._submitting is not None and self._submitting.may_log_in(secure=self.secure)
        return _offer(self.policy, starttls, login)

    def tls_started(self) -> None:
        """Forget all that was said in clear text (RFC 3207 §4.2)."""
        self.reset()
        self.secure, self.hello_name, self.extended = True, "", False
        if self._submitting is not None:
            self._submitting.forget()

    async def auth(self, argument: str) -> Reply:
        """AUTH; after a 334 the client's next line is for `respond`."""
        if self._submitting is None:
            return replies.UNRECOGNIZED
        if not self.extended:
            return replies.NO_HELLO
        if self._envelope is not None:
            return replies.SEQUENCE  # RFC 4954 §4
        return await self._submitting.begin(argument, secure=self.secure)

    async def respond(self, line: bytes | None) -> Reply:
        """The client's line within AUTH, None if it was too long."""
        assert self._submitting is not None
        return await self._submitting.respond(line)

    @property
    def idle(self) -> bool:
        """Whether the session is between messages, so that closing it loses nobody's work."""
        return self._envelope is None

    def reset(self) -> None:
        """RSET, and whatever ends a message: forget envelope and content."""
        if self._incoming is not None:
            self._incoming.abandon()
        self._incoming = self.content = None
        self._envelope = None
        self._accepted = []

    # -- envelope --------------------------------------------------------------------------------

    def mail(self, argument: str) -> Reply:
        """MAIL; `argument` is what follows the verb."""
        if not self.hello_name:
            return replies.NO_HELLO
        if self._envelope is not None:
            return replies.SEQUENCE
        if self._submitting is not None and self._submitting.submitter is None:
            return replies.NEEDS_LOGIN  # RFC 6409 §4.3
        asked = arguments.of_mail(argument, self.extended, self.policy.lmtp, self._submitting is not None)
        if isinstance(asked, Reply):
            return asked
        envelope, size = asked
        if self._submitting is not None and (refusal := self._submitting.refusal(envelope.sender)):
            return refusal
        if size > self.policy.message_size:
            return replies.TOO_BIG
        if not self._reception.has_room(size):
            return NO_SPACE
        self._envelope, self._size = envelope, size
        self._asker = Asker(envelope.sender, self._submitting is not None)
        return replies.SENDER_OK

    def rcpt(self, argument: str) -> Reply | Coroutine[Any, Any, Reply]:
        """RCPT; asks the router, who may have to wait."""
        if self._envelope is None:
            return replies.NO_MAIL if self.hello_name else replies.NO_HELLO
        if self.content is not None:
            return replies.SEQUENCE
        asked = arguments.of_rcpt(argument, self.extended, self.policy.lmtp)
        if isinstance(asked, Reply):
            return asked
        if not self._envelope.smtputf8 and not argument.isascii():
            return replies.NEEDS_SMTPUTF8  # RFC 6531 §3.4
        if len(self._accepted) >= self.policy.recipients:
            return replies.TOO_MANY_RECIPIENTS  # RFC 5321 §4.5.3.1.10
        route = self._router.decide(asked.target, self._size, self._asker)
        return self._add(asked, route) if isinstance(route, tuple) else self._add_later(asked, route)

    async def _add_later(self, asked: Wanted, route: Awaitable[Route]) -> Reply:
        return self._add(asked, await route)

    def _add(self, asked: Wanted, route: Route) -> Reply:
        if isinstance(route, Reply):
            return route
        target, notify, original = asked
        address = target if isinstance(target, Address) else _named(route)
        self._accepted.append(Accepted(Recipient(address, notify, original), route))
        return replies.RECIPIENT_OK

    # -- content ---------------------------------------------------------------------------------

    def data(self) -> Reply:
        """DATA: 354 and a `content` to feed, or the reason why not."""
        if self._envelope is None:
            return replies.NO_MAIL if self.hello_name else replies.NO_HELLO
        if self.content is not None:
            return replies.SEQUENCE  # RFC 3030 §3: DATA and BDAT do not mix in one message
        if not self._accepted:
            return replies.NO_RECIPIENT
        self._open(dots=True)
        return replies.GO_AHEAD

    def chunk(self, argument: str) -> Chunk | Reply:
        """BDAT: how many octets follow, and whether they are wanted (RFC 3030 §2)."""
        match = _CHUNK.fullmatch(argument.strip())
        if not match:
            return replies.BDAT_SYNTAX
        refused = None
        if self._envelope is None or not self._accepted:
            refused = replies.NO_RECIPIENT if self._envelope else replies.NO_MAIL
        elif self.content is None:
            self._open(dots=False)
        return Chunk(int(match.group(1)), match.group(2) is not None, refused)

    def chunk_done(self, octets: int) -> Reply:
        """A chunk that was not the last is in; a refused message says so at once."""
        if self.content is not None and self.content.refusal is not None:
            refusal = self.content.refusal
            self.reset()
            return refusal
        return Reply(250, "2.0.0", f"{octets} octets received")

    def _open(self, *, dots: bool) -> None:
        assert self._envelope is not None
        client = Client(self.hello_name, self._peer, self.extended, self.secure)
        self._incoming = Incoming(
            self.policy,
            self._reception,
            client,
            self._envelope,
            self._accepted,
            self._submitting,
            dots=dots,
        )
        self.content = self._incoming.content

    def finish(self, committed: Told) -> list[Reply] | None:
        """The content has ended: take the message in, and later call `committed` with what `replies` is for.

        A message that is refused has its replies at once.
        """
        assert self._incoming is not None
        self._finishing = self._incoming
        self._incoming = self.content = None  # from here on it ends by itself
        refusal = self._finishing.finish(committed)
        if refusal is not None:
            self.reset()
        return refusal

    def replies(self, errors: Sequence[Reply | None]) -> list[Reply]:
        """The commit has ended so: one reply, or in LMTP one for each recipient."""
        assert self._finishing is not None
        incoming, self._finishing = self._finishing, None
        self.reset()
        return incoming.replies(errors)


def _named(route: tuple[Local | Leaves, ...]) -> Address:
    """The address the bare `<postmaster>` stands for."""
    first = route[0]
    return first.address if isinstance(first, Local) else first.forwarded_by or first.recipient
