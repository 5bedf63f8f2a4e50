"""The SMTP dialogue without a network: what each command means and which reply it gets.

One `Transaction` lives as long as its session; MAIL begins a message, its commit or RSET ends it. The
server module reads commands, calls these methods and sends what they return. LMTP (RFC 2033) is the same
dialogue with LHLO and one reply per recipient.
Not here: sockets, aiosmtpd, asyncio, TLS (`smtp.server`); routes (`mta.routing`); storing (`mta.reception`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from mailserver import maillog
from mailserver.mail import path, trace
from mailserver.mail.address import Address
from mailserver.mail.envelope import (
    Envelope,
    ParameterError,
    Recipient,
    envelope_wishes,
    recipient_wishes,
)
from mailserver.mail.path import Foreign, Parameters, PathError, Postmaster
from mailserver.mail.reply import Reply
from mailserver.mta.reception import NO_SPACE, Message, Reception
from mailserver.mta.routing import Local, Route
from mailserver.smtp.content import TOO_BIG, Content

OK = Reply(250, "2.0.0", "OK")
SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
NO_HELLO = Reply(503, "5.5.1", "Say hello first")
NO_MAIL = Reply(503, "5.5.1", "Need MAIL first")
NO_RECIPIENT = Reply(503, "5.5.1", "Need RCPT first: no valid recipients")
MAIL_SYNTAX = Reply(501, "5.1.7", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX = Reply(501, "5.1.3", "Syntax: RCPT TO:<address> [parameters]")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized or not implemented")
BAD_PARAMETER = Reply(501, "5.5.4", "Bad value of a parameter")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Address needs SMTPUTF8")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest in another message")
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
VRFY = Reply(252, "2.5.0", "Cannot VRFY user, but will accept message and attempt delivery")
EXPN = Reply(502, "5.7.0", "EXPN is not available")
HELP = Reply(214, "2.0.0", "See RFC 5321. Questions go to the postmaster of this host")

_HELLO_NAME = re.compile(r"[!-~\u00a1-\ud7ff\ue000-\U0010ffff]{1,255}")
_CHUNK = re.compile(r"(\d{1,19})(?: +(LAST))?", re.IGNORECASE)
_DIGITS = re.compile(r"\d{1,20}")


class Policy(NamedTuple):
    """What a listener's sessions allow. Sizes in octets."""

    hostname: str
    lmtp: bool = False
    message_size: int = 50 << 20
    header_size: int = 256 << 10
    recipients: int = 1000
    received: int = 100


class Router(Protocol):
    """Where mail for an address goes; `mta.routing.Routing`, or a table in a test."""

    def route(self, path: Address | Postmaster | Foreign, size: int) -> Awaitable[Route]: ...


class Chunk(NamedTuple):
    """A valid BDAT command: so many octets follow, `refused` says why they are only dropped."""

    octets: int
    last: bool
    refused: Reply | None


class Accepted(NamedTuple):
    """A recipient that was answered with 250, and the mailboxes it leads to."""

    recipient: Recipient
    places: tuple[Local, ...]


class Transaction:
    """The state of one session. `peer` is the client's IP address, or `unix`."""

    def __init__(self, policy: Policy, router: Router, reception: Reception, peer: str) -> None:
        self.policy = policy
        self.secure = False
        self.hello_name = ""
        self.extended = False
        self.content: Content | None = None
        self._router = router
        self._reception = reception
        self._peer = peer
        self._envelope: Envelope | None = None
        self._accepted: list[Accepted] = []
        self._size = 0

    # -- session ---------------------------------------------------------------------------------

    def hello(self, name: str, *, extended: bool, starttls: bool) -> Reply:
        """HELO, EHLO or LHLO; `starttls` tells whether TLS can be offered now."""
        if not _HELLO_NAME.fullmatch(name):
            return Reply(501, "5.5.4", "Syntax: hello, and the name of your host")
        self.reset()
        self.hello_name, self.extended = name, extended
        if not extended:
            return Reply(250, "", self.policy.hostname)
        keywords = [
            self.policy.hostname,
            f"SIZE {self.policy.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "PIPELINING",
            "CHUNKING",
            "ENHANCEDSTATUSCODES",
            "DSN",
            f"LIMITS RCPTMAX={self.policy.recipients}",
        ]
        return Reply(250, "", "\n".join([*keywords, *(["STARTTLS"] if starttls else []), "HELP"]))

    def tls_started(self) -> None:
        """Forget all that was said in clear text (RFC 3207 §4.2)."""
        self.reset()
        self.secure, self.hello_name, self.extended = True, "", False

    @property
    def idle(self) -> bool:
        """Whether the session is between messages, so that closing it loses nobody's work."""
        return self._envelope is None

    def reset(self) -> None:
        """RSET, and whatever ends a message: forget envelope and content."""
        if self.content is not None:
            self._reception.abandon(self.content.message)
        self.content = None
        self._envelope = None
        self._accepted = []

    # -- envelope --------------------------------------------------------------------------------

    def mail(self, argument: str) -> Reply:
        """MAIL; `argument` is what follows the verb."""
        if not self.hello_name:
            return NO_HELLO
        if self._envelope is not None:
            return SEQUENCE
        if argument[:5].upper() != "FROM:":
            return MAIL_SYNTAX
        try:
            sender, parameters = path.reverse_path(argument[5:])
            if not argument.isascii() and "SMTPUTF8" not in parameters:
                return NEEDS_SMTPUTF8  # RFC 6531 §3.5
            return self._begin(sender, parameters)
        except PathError:
            return MAIL_SYNTAX
        except ParameterError:
            return BAD_PARAMETER

    def _begin(self, sender: Address | None, parameters: Parameters) -> Reply:
        if parameters and not self.extended:
            return UNKNOWN_PARAMETER
        size = _size(parameters)
        body = (parameters.pop("BODY", "7BIT") or "").upper()
        utf8 = "SMTPUTF8" in parameters
        if body not in ("7BIT", "8BITMIME") or (utf8 and parameters.pop("SMTPUTF8") is not None):
            return BAD_PARAMETER
        ret, envid = envelope_wishes(parameters)
        if parameters:
            return UNKNOWN_PARAMETER
        if size > self.policy.message_size:
            return TOO_BIG
        if not self._reception.has_room(size):
            return NO_SPACE
        self._size = size
        self._envelope = Envelope(sender, body_8bit=body == "8BITMIME", smtputf8=utf8, ret=ret, envid=envid)
        return Reply(250, "2.1.0", "Sender OK")

    async def rcpt(self, argument: str) -> Reply:
        """RCPT; asks the router."""
        if self._envelope is None:
            return NO_MAIL if self.hello_name else NO_HELLO
        if self.content is not None:
            return SEQUENCE
        if argument[:3].upper() != "TO:":
            return RCPT_SYNTAX
        try:
            target, parameters = path.forward_path(argument[3:])
            notify, original = recipient_wishes(parameters)
        except PathError:
            return RCPT_SYNTAX
        except ParameterError:
            return BAD_PARAMETER
        if parameters or ((notify or original) and not self.extended):
            return UNKNOWN_PARAMETER
        if not argument.isascii() and not self._envelope.smtputf8:
            return NEEDS_SMTPUTF8  # RFC 6531 §3.4
        if len(self._accepted) >= self.policy.recipients:
            return TOO_MANY_RECIPIENTS  # RFC 5321 §4.5.3.1.10
        return await self._add(target, notify, original)

    async def _add(
        self, target: Address | Postmaster | Foreign, notify: frozenset[str], original: str | None
    ) -> Reply:
        route = await self._router.route(target, self._size)
        if isinstance(route, Reply):
            return route
        address = target if isinstance(target, Address) else route[0].address
        self._accepted.append(Accepted(Recipient(address, notify, original), route))
        return Reply(250, "2.1.5", "Recipient OK")

    # -- content ---------------------------------------------------------------------------------

    def data(self) -> Reply:
        """DATA: 354 and a `content` to feed, or the reason why not."""
        if self._envelope is None:
            return NO_MAIL if self.hello_name else NO_HELLO
        if self.content is not None:
            return SEQUENCE  # RFC 3030 §3: DATA and BDAT do not mix in one message
        if not self._accepted:
            return NO_RECIPIENT
        self.content = self._open(dots=True)
        return GO_AHEAD

    def chunk(self, argument: str) -> Chunk | Reply:
        """BDAT: how many octets follow, and whether they are wanted (RFC 3030 §2)."""
        match = _CHUNK.fullmatch(argument.strip())
        if not match:
            return Reply(501, "5.5.4", "Syntax: BDAT octets [LAST]")
        refused = None
        if self._envelope is None or not self._accepted:
            refused = NO_RECIPIENT if self._envelope else NO_MAIL
        elif self.content is None:
            self.content = self._open(dots=False)
        return Chunk(int(match.group(1)), match.group(2) is not None, refused)

    def chunk_done(self, octets: int) -> Reply:
        """A chunk that was not the last is in; a refused message says so at once."""
        if self.content is not None and self.content.refusal is not None:
            refusal = self.content.refusal
            self.reset()
            return refusal
        return Reply(250, "2.0.0", f"{octets} octets received")

    def _open(self, *, dots: bool) -> Content:
        message = self._reception.begin()
        return Content(
            message,
            self._trace(message),
            dots=dots,
            size_limit=self.policy.message_size,
            header_limit=self.policy.header_size,
            hops=self.policy.received,
        )

    def _trace(self, message: Message) -> bytes:
        assert self._envelope is not None
        places = self._places()
        single = len(self._accepted) == 1
        header = trace.return_path(self._envelope.sender)
        if len(places) == 1:  # more than one mailbox shares the content: no line that differs
            header += trace.delivered_to(places[0].address)
        header += trace.received(
            hello=self.hello_name,
            peer=self._peer,
            by=self.policy.hostname,
            protocol=self._protocol(),
            message_id=message.id,
            recipient=self._accepted[0].recipient.address if single else None,
            now=time.time(),
        )
        return header.encode()

    def _protocol(self) -> str:
        """The WITH keyword (RFC 3848, RFC 6531 §4.3)."""
        assert self._envelope is not None
        name = "LMTP" if self.policy.lmtp else "ESMTP" if self.extended else "SMTP"
        if self._envelope.smtputf8:
            name = f"UTF8{name.removeprefix('E')}"
        return name + ("S" if self.secure and self.extended else "")

    def _places(self) -> list[Local]:
        """Every mailbox once, however many recipients lead to it."""
        found = {place.maildir.path: place for accepted in self._accepted for place in accepted.places}
        return list(found.values())

    async def finish(self) -> list[Reply]:
        """The content has ended: commit it. One reply, or in LMTP one for each accepted recipient."""
        assert self.content is not None
        assert self._envelope is not None
        content, places = self.content, self._places()
        if content.refusal is not None:
            return self._end([content.refusal] * (len(self._accepted) if self.policy.lmtp else 1))
        self.content = None  # from here on the message is the committer's
        errors = await self._reception.commit(
            content.message, content.wire_size, places, together=not self.policy.lmtp
        )
        outcome = {place.maildir.path: error for place, error in zip(places, errors, strict=True)}
        self._log(content, outcome)
        accepted = Reply(250, "2.0.0", f"OK {content.message.id}")
        if not self.policy.lmtp:
            return self._end([next((error for error in errors if error is not None), accepted)])
        return self._end([_worst(a.places, outcome) or accepted for a in self._accepted])

    def _end(self, replies: list[Reply]) -> list[Reply]:
        self.reset()
        return replies

    def _log(self, content: Content, outcome: dict[str, Reply | None]) -> None:
        assert self._envelope is not None
        maillog.count("messages.received", int(None in outcome.values()))
        maillog.event(
            "received",
            id=content.message.id,
            peer=self._peer,
            helo=self.hello_name,
            proto=self._protocol(),
            sender=f"<{self._envelope.sender or ''}>",
            to=",".join(str(a.recipient.address) for a in self._accepted[:10]),
            recipients=len(self._accepted),
            size=content.wire_size,
            stored=sum(error is None for error in outcome.values()),
            envid=self._envelope.envid,
        )


def _size(parameters: Parameters) -> int:
    """Take SIZE out of MAIL's parameters (RFC 1870 §3). Raises ParameterError."""
    if "SIZE" not in parameters:
        return 0
    value = parameters.pop("SIZE") or ""
    if not _DIGITS.fullmatch(value):
        raise ParameterError("SIZE is a number")
    return int(value)


def _worst(places: tuple[Local, ...], outcome: dict[str, Reply | None]) -> Reply | None:
    """What to tell an LMTP client about a recipient: an error if any of its mailboxes has one."""
    return next((error for p in places if (error := outcome[p.maildir.path]) is not None), None)
