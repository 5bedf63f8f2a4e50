"""What all sessions of a listener share. Values and ports only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from ssl import SSLContext

from mailserver.mail.reply import Reply
from mailserver.mta.reception import Reception
from mailserver.smtp.submission import Submission
from mailserver.smtp.transaction import Policy, Router
from mailserver.transport.driver import Connections


@dataclass(frozen=True)
class Timeouts:
    """Seconds: of silence, for one message's content, for a session; RFC 5321 §4.5.3.2 for the first two."""

    idle: float = 300.0
    content: float = 1800.0
    session: float = 7200.0
    handshake: float = 30.0


@dataclass(frozen=True)
class Site:
    """A listener: its policy, and the parts behind it.

    `tls` gives the context for STARTTLS, which it offers; `submission` makes it a place to submit mail.
    """

    policy: Policy
    router: Router
    reception: Reception
    connections: Connections
    timeouts: Timeouts = field(default_factory=Timeouts)
    tls: Callable[[], SSLContext] | None = None
    submission: Submission | None = None

    @cached_property
    def greeting(self) -> bytes:
        """What a client hears first."""
        return Reply(220, "", f"{self.policy.hostname} {'LMTP' if self.policy.lmtp else 'ESMTP'}").encode()

    @cached_property
    def farewell(self) -> bytes:
        """The answer to QUIT."""
        return Reply(221, "2.0.0", f"{self.policy.hostname} closing connection").encode()
