"""One mail transaction: MAIL, RCPT, DATA and the content, with an outcome for each recipient.

What the host says about the message is final for this attempt; where it breaks off before the end of data,
recipients stay open and another host may be tried. After the end of data nothing is tried twice at once.
Not here: the session (`delivery.session`), which hosts there are (the couriers).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from mailserver.delivery import parameters
from mailserver.delivery.attempt import Attempt
from mailserver.delivery.replies import deferred, failed, softened
from mailserver.delivery.session import Session
from mailserver.delivery.wire import Trouble, is_command
from mailserver.mail.reply import Reply
from mailserver.pool import Busy

_TOGETHER = 30  # commands at once: their replies must fit into what is held of them (32 KiB)
_TOO_MANY = {"4.0.0", "5.0.0", "4.5.3", "5.5.3"}
_LOGIN_WANTED = {530, 534, 535, 538}  # RFC 4954 §6, RFC 3207 §4: it is not the message that is refused
_OURS = (OSError, LookupError, Busy)  # the content cannot be read just now
_UNREADABLE = deferred("3.0", "the message cannot be read from the queue now")


async def carry(session: Session, attempt: Attempt) -> Trouble | None:
    """Carry the message to all open recipients, in as many transactions as it takes.

    Returns why the host broke off, if it did and recipients are still open. A session that is not `usable`
    afterwards is closed.
    """
    try:
        if reply := await parameters.unfit(session, attempt):
            attempt.settle(attempt.open, reply, str(session.hop))
        while numbers := attempt.open[: session.manner.limits.recipients]:
            await _Transaction(session, attempt, numbers).run()
    except Trouble as trouble:
        session.connection.abort()
        return trouble if attempt.open else None
    except _OURS:
        session.connection.abort()
        attempt.settle(attempt.open, _UNREADABLE, "")
    except BaseException:
        session.connection.abort()
        raise
    return None


class _Step(NamedTuple):
    """A command, how long its reply may take, and what that means."""

    line: str
    timeout: float
    hear: Callable[[Reply], None]


class _Transaction:
    """Settles at least one of its recipients, or raises Trouble."""

    def __init__(self, session: Session, attempt: Attempt, numbers: list[int]) -> None:
        self._session = session
        self._attempt = attempt
        self._numbers = numbers
        self._accepted: list[int] = []
        self._refused = False
        self._limits = session.manner.limits

    async def run(self) -> None:
        steps = self._steps()
        if not steps:
            return
        self._session.messages += 1
        if await self._take(steps):
            await self._content()
        elif self._session.connection.usable:
            await self._session.reset()

    def _steps(self) -> list[_Step]:
        """MAIL, RCPT and DATA; none where nobody is left whom this host could be given."""
        rcpts: list[_Step] = []
        for number in self._numbers:
            recipient = self._attempt.recipient(number)
            line = parameters.rcpt(self._session, recipient)
            if reply := parameters.unfit_recipient(self._session, recipient):
                self._settle([number], reply)
            elif not is_command(line):
                self._settle([number], failed("1.3", "the recipient's address is malformed"))
            else:
                rcpts.append(_Step(line, self._limits.recipient, partial(self._on_recipient, number)))
        self._numbers = [number for number in self._numbers if number in self._attempt.open]
        if not self._numbers:
            return []
        line = parameters.mail(self._session, self._attempt, self._numbers)
        if not is_command(line):
            self._settle(self._numbers, failed("1.7", "the sender's address is malformed"))
            return []
        mail = _Step(line, self._limits.mail, self._on_mail)
        return [mail, *rcpts, _Step("DATA", self._limits.data, self._on_data)]

    async def _take(self, steps: list[_Step]) -> bool:
        """Say all of it, many commands at once where the host takes them so; whether it wants the content.

        After a refusal the commands that went out with the refused one are answered still, to no effect;
        a host that wants content for nobody gets an empty one (RFC 2920 §3.1).
        """
        together = _TOGETHER if self._session.offers("PIPELINING") else 1
        for start in range(0, len(steps), together):
            group = steps[start : start + together]
            if self._refused or (group[0] is steps[-1] and not self._accepted):
                return False
            self._session.connection.send([step.line for step in group])
            for step in group:
                reply = await self._session.connection.reply(step.timeout)
                await self._hear(step, reply)
        return bool(self._accepted) and not self._refused

    async def _hear(self, step: _Step, reply: Reply) -> None:
        """The answer to a command; 421 means that the host leaves, whatever was asked (RFC 5321 §3.8)."""
        data = step.line == "DATA"
        if self._refused or (data and not self._accepted):
            if reply.code == 421 or (data and reply.code == 354 and self._session.manner.lmtp):
                self._session.connection.abort()  # in LMTP nobody would answer to the empty one
            elif data and reply.code == 354:
                self._session.connection.send(["."])
                await self._verdict()
            return
        if reply.code == 421:
            raise Trouble(reply)
        if reply.code in _LOGIN_WANTED:
            raise Trouble(softened(reply), "the host wants a login, or TLS: set user and secret, and tls")
        if reply.positive and (reply.code >= 300) != data:
            raise Trouble(deferred("5.0", f"the host answers {step.line[:4]} with {reply.code}"))
        step.hear(reply)

    def _on_mail(self, reply: Reply) -> None:
        if not reply.positive:
            self._refused = True
            self._settle(self._numbers, reply)

    def _on_recipient(self, number: int, reply: Reply) -> None:
        if reply.positive:
            self._accepted.append(number)
        elif not (self._accepted and reply.code in (452, 552) and reply.status in _TOO_MANY):
            # RFC 5321 §4.5.3.1.10: 552 is 452; after others it means "the rest in another transaction"
            self._settle([number], softened(reply) if reply.code == 552 else reply)

    def _on_data(self, reply: Reply) -> None:
        if not reply.positive:
            self._refused = True
            self._settle(self._accepted, reply)

    async def _content(self) -> None:
        content = self._attempt.content
        try:
            async with aclosing(content.blocks()) as blocks:
                await self._session.connection.content(blocks, self._limits.block)
            await self._verdicts()
        except Trouble as trouble:
            self._session.connection.abort()
            still = [number for number in self._accepted if number in self._attempt.open]
            if trouble.reply.code:  # RFC 5321 §4.2.5 has no reply here, but a refusal it is
                self._settle(still, trouble.reply)
            elif content.ended:  # RFC 1047: it may have been taken; only this window may make duplicates
                self._settle(
                    still, trouble.reply._replace(text=f"{trouble.reply.text} after the end of data")
                )
            else:
                raise

    async def _verdicts(self) -> None:
        """One reply for all; with LMTP one for each recipient that was accepted (RFC 2033 §4.2)."""
        if not self._session.manner.lmtp:
            self._settle(self._accepted, await self._verdict())
            return
        for number in self._accepted:
            self._settle([number], await self._verdict())

    async def _verdict(self) -> Reply:
        reply = await self._session.connection.reply(self._limits.end)
        if 300 <= reply.code < 400:
            raise Trouble(deferred("5.0", f"the host answers the message with {reply.code}"))
        return reply

    def _settle(self, numbers: list[int], reply: Reply) -> None:
        self._attempt.settle(
            numbers,
            reply,
            str(self._session.hop),
            dsn=self._session.offers("DSN"),
            final=self._session.manner.lmtp,
        )
