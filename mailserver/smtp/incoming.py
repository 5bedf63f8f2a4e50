"""One message from the beginning of its content to its replies: header on top, content, commit, log.

Not here: the commands before it (`transaction`), what content may hold (`content`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from mailserver import maillog
from mailserver.mail import trace
from mailserver.mail.envelope import Envelope
from mailserver.mail.reply import Reply
from mailserver.mta.dispatch import Accepted, Dispatch
from mailserver.mta.reception import Reception, Told
from mailserver.smtp.content import Content
from mailserver.smtp.header import completed
from mailserver.smtp.submission import Submitting


class Policy(NamedTuple):
    """What a listener's sessions allow. Sizes in octets; `delimiter` begins a +tag."""

    hostname: str
    lmtp: bool = False
    message_size: int = 50 << 20
    header_size: int = 256 << 10
    recipients: int = 1000
    received: int = 100
    delimiter: str = "+"


class Client(NamedTuple):
    """Who brings a message: the name it said, its IP address or `unix`; whether by EHLO, whether over TLS."""

    name: str
    peer: str
    extended: bool
    secure: bool


class Incoming:
    """A message whose content comes in. `submitting` is there where its client had to log in."""

    def __init__(
        self,
        policy: Policy,
        reception: Reception,
        client: Client,
        envelope: Envelope,
        accepted: Sequence[Accepted],
        submitting: Submitting | None,
        *,
        dots: bool,
    ) -> None:
        self._policy = policy
        self._reception = reception
        self._client = client
        self._envelope = envelope
        self._accepted = accepted
        self._submitting = submitting
        submitter = None if submitting is None else submitting.submitter
        self._user = "" if submitter is None else submitter.name
        self._protocol = self._with()
        self._dispatch = Dispatch(envelope, accepted)
        self._message = reception.begin()
        self.content = Content(
            self._message,
            (self._dispatch.header() + self._received()).encode(),
            dots=dots,
            size_limit=policy.message_size,
            header_limit=policy.header_size,
            hops=policy.received,
            forwarders=self._dispatch.forwarders,
            delimiter=policy.delimiter,
            complete=None if submitting is None else self._completion(submitting),
        )

    def abandon(self) -> None:
        """The message will not be taken in."""
        self._reception.abandon(self._message)

    def finish(self, committed: Told) -> list[Reply] | None:
        """The content has ended: commit it; `committed` is called later, with what `replies` asks for.

        A message that is refused has its replies at once.
        """
        lmtp, submitting = self._policy.lmtp, self._submitting
        refusal = self.content.refusal or (submitting.take() if submitting is not None else None)
        if refusal is not None:
            self._log_refused(refusal)
            self.abandon()
            return [refusal] * (len(self._accepted) if lmtp else 1)
        self._reception.commit(
            self._message,
            self.content.wire_size,
            self._dispatch.mailboxes,
            self._dispatch.departures,
            self._dispatch.success,
            together=not lmtp,
            user=self._user,
            told=committed,
            settled=self._log,
        )
        return None

    def replies(self, errors: Sequence[Reply | None]) -> list[Reply]:
        """What to say when the commit has ended: one reply, or in LMTP one for each accepted recipient."""
        accepted = Reply(250, "2.0.0", f"OK {self._message.id}")
        if self._policy.lmtp:
            return [error or accepted for error in self._dispatch.outcomes(errors)]
        failed = _first(errors)
        if failed is not None and self._submitting is not None:
            self._submitting.give_back()
        return [failed or accepted]

    def _received(self) -> str:
        hidden = self._submitting is not None and self._submitting.rules.hide_client
        single = len(self._accepted) == 1
        return trace.received(
            hello="client" if hidden else self._client.name,
            peer="hidden" if hidden else self._client.peer,
            by=self._policy.hostname,
            protocol=self._protocol,
            message_id=self._message.id,
            recipient=self._accepted[0].recipient.address if single else None,
            now=time.time(),
        )

    def _completion(self, submitting: Submitting) -> Callable[[bytes], bytes]:
        """What makes a submitted message's header whole (RFC 6409 §8)."""
        assert submitting.submitter is not None
        hostname, now = self._policy.hostname, time.time()
        author = submitting.submitter.address or self._envelope.sender
        return partial(
            completed,
            now=now,
            message_id=f"<{int(now)}.{self._message.id}@{hostname}>",
            author=author or submitting.rules.senders.postmaster(),
        )

    def _with(self) -> str:
        """The WITH keyword (RFC 3848, RFC 6531 §4.3)."""
        name = "LMTP" if self._policy.lmtp else "ESMTP" if self._client.extended else "SMTP"
        if self._envelope.smtputf8:
            name = f"UTF8{name.removeprefix('E')}"
        if self._client.secure and self._client.extended:
            name += "S"
        return f"{name}A" if self._submitting is not None and self._submitting.logged_in else name

    def _log_refused(self, reply: Reply) -> None:
        maillog.count("messages.refused")
        maillog.event(
            "message-refused",
            id=self._message.id,
            peer=self._client.peer,
            sender=f"<{self._envelope.sender or ''}>",
            user=self._user or None,
            reply=reply,
        )

    def _log(self, errors: Sequence[Reply | None]) -> None:
        stored = errors.count(None)
        maillog.count("messages.received", int(stored > 0))
        maillog.event(
            "received",
            id=self._message.id,
            peer=self._client.peer,
            helo=self._client.name,
            proto=self._protocol,
            user=self._user or None,
            sender=f"<{self._envelope.sender or ''}>",
            to=",".join([str(a.recipient.address) for a in self._accepted[:10]]),
            recipients=len(self._accepted),
            size=self.content.wire_size,
            stored=stored,
            reply=_first(errors),
            envid=self._envelope.envid,
        )


def _first(errors: Sequence[Reply | None]) -> Reply | None:
    return next(filter(None, errors), None)
