"""What carries mail away, as the queue sees it: a delivery goes in, an outcome for each recipient comes out.

Values and ports only. Couriers that speak SMTP and LMTP live above (`delivery`), those of tests in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.reply import Reply

# A relay's name, a domain: what shares connections, pace and back-off. `str()` names it in the log.
Route = Hashable


class Kind(Enum):
    """How an attempt ended for one recipient."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"  # try again later
    FAILED = "failed"  # never again


class Outcome(NamedTuple):
    """What became of one recipient in one attempt, and what the remote host said about it.

    `code` is the SMTP reply code, 0 where no host said anything; `status` the code of RFC 3463; `remote`
    the host that said it, or that could not be reached; empty where there was none to speak with.
    `dsn_passed_on`: the host took NOTIFY and reports success itself (RFC 3461 §5.2.1).
    `final`: it is in a mailbox now, not with a further host (LMTP), so nobody else reports success.
    `unreachable`: nothing was said about this message, for no conversation came about (no connection, no
    greeting, no TLS, a login refused): other messages would have fared the same, so the destination is
    left alone for a while.
    `tried`: no courier was asked where it is false, for the destination is being left alone.
    """

    kind: Kind
    code: int = 0
    status: str = ""
    text: str = ""
    remote: str = ""
    dsn_passed_on: bool = False
    final: bool = False
    unreachable: bool = False
    tried: bool = True

    @property
    def reply(self) -> str:
        """The reply in one line, as it stands in logs and reports."""
        text = f"{self.status} {self.text}" if not self.text.startswith(self.status) else self.text
        return f"{self.code} {text}".strip() if self.code else text.strip()


class Delivery(NamedTuple):
    """One message to be carried along one route, for at most `runner.TOGETHER` recipients.

    `content(flags)` opens the message: a descriptor the courier closes, LF line ends, dots not stuffed; it
    may block, but for reading, which it does with `flags` of preadv(2), and raise OSError. The first
    `at_rest` octets are the message, `size` with CRLF (for SIZE=); where there are fewer it must not go out.
    `sent()` is called before the end of data goes out: from then on the host may have taken the message, and
    breaking off may make a duplicate (RFC 1047).
    """

    id: str
    route: Route
    sender: Address | None
    recipients: tuple[Recipient, ...]
    size: int
    at_rest: int
    content: Callable[[int], int]
    body_8bit: bool = False
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    sent: Callable[[], object] = lambda: None


class Courier(Protocol):
    """Carries messages along one kind of route. Never raises for remote trouble; has its own time limits."""

    def deliver(self, delivery: Delivery) -> Awaitable[Sequence[Outcome]]:
        """Try once; one outcome for each recipient, in their order."""


class Pace(NamedTuple):
    """How much a route bears: connections at once, and deliveries begun a second (0: no limit)."""

    connections: int = 5
    rate: float = 0.0


class Router(Protocol):
    """Which way mail goes, and who carries it there. Plain calls that neither block nor raise."""

    def route(self, sender: Address | None, recipient: Address) -> Route: ...

    def courier_for(self, route: Route) -> Courier: ...

    def pace(self, route: Route) -> Pace: ...


class Post(Protocol):
    """Takes a report in as a new message, into mailboxes here or into the queue; durable when positive."""

    def __call__(self, envelope: Envelope, content: bytes) -> Awaitable[Reply]: ...
