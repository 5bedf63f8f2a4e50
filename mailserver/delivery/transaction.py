"""One mail transaction: MAIL, RCPT, DATA and the content, with an outcome for each recipient.

What the host says about the message is final for this attempt; where it breaks off before the end of data,
recipients stay open and another host may be tried. After the end of data nothing is tried twice at once.
Not here: the session (`delivery.session`), which hosts there are (the couriers).
"""

from __future__ import annotations

from contextlib import aclosing

from mailserver.delivery import parameters
from mailserver.delivery.attempt import Attempt
from mailserver.delivery.replies import deferred, failed, softened
from mailserver.delivery.session import Session
from mailserver.delivery.wire import Trouble
from mailserver.mail.reply import Reply
from mailserver.pool import Busy

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
        return trouble
    except _OURS:
        session.connection.abort()
        attempt.settle(attempt.open, _UNREADABLE, "")
    except BaseException:
        session.connection.abort()
        raise
    return None


class _Transaction:
    """Settles at least one of its recipients, or raises Trouble."""

    def __init__(self, session: Session, attempt: Attempt, numbers: list[int]) -> None:
        self._session = session
        self._attempt = attempt
        self._numbers = numbers
        self._accepted: list[int] = []
        self._limits = session.manner.limits

    async def run(self) -> None:
        for number in self._numbers:
            if reply := parameters.unfit_recipient(self._session, self._attempt.recipient(number)):
                self._settle([number], reply)
        self._numbers = [number for number in self._numbers if number in self._attempt.open]
        if not self._numbers:
            return
        self._session.messages += 1
        if await self._mail() and await self._recipients() and await self._data():
            await self._content()
        elif self._session.connection.usable:
            await self._session.reset()

    async def _mail(self) -> bool:
        try:
            reply = await self._say(
                parameters.mail(self._session, self._attempt, self._numbers), self._limits.mail
            )
        except ValueError:
            reply = failed("1.7", "the sender's address is malformed")
        if not reply.positive or not reply.code:
            self._settle(self._numbers, reply)
            return False
        return True

    async def _recipients(self) -> bool:
        """Whether the host takes the message for anyone."""
        for number in self._numbers:
            try:
                command = parameters.rcpt(self._session, self._attempt.recipient(number))
                reply = await self._say(command, self._limits.recipient)
            except ValueError:
                reply = failed("1.3", "the recipient's address is malformed")
            if reply.code and reply.positive:
                self._accepted.append(number)
            elif not (self._accepted and reply.code in (452, 552) and reply.status in _TOO_MANY):
                # RFC 5321 §4.5.3.1.10: 552 is 452; after others it means "the rest in another transaction"
                self._settle([number], softened(reply) if reply.code == 552 else reply)
        return bool(self._accepted)

    async def _data(self) -> bool:
        reply = await self._say("DATA", self._limits.data)
        if not reply.positive:
            self._settle(self._accepted, reply)
        return reply.positive

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

    async def _say(self, command: str, timeout: float) -> Reply:
        """One command; 421 means that the host leaves, whatever was asked (RFC 5321 §3.8)."""
        reply = await self._session.connection.command(command, timeout)
        if reply.code == 421:
            raise Trouble(reply)
        if reply.code in _LOGIN_WANTED:
            raise Trouble(softened(reply), "the host wants a login, or TLS: set user and secret, and tls")
        if reply.positive and (reply.code >= 300) != (command == "DATA"):
            raise Trouble(deferred("5.0", f"the host answers {command[:4]} with {reply.code}"))
        return reply

    def _settle(self, numbers: list[int], reply: Reply) -> None:
        self._attempt.settle(
            numbers,
            reply,
            str(self._session.hop),
            dsn=self._session.offers("DSN"),
            final=self._session.manner.lmtp,
        )
