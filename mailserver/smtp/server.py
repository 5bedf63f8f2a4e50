"""The one subclass of aiosmtpd's SMTP: it translates between a connection and a `Transaction`.

From aiosmtpd it has the command loop, the verb table and the stream plumbing; every verb is answered by
`smtp.transaction`, and no text of the library reaches a client. Three things differ from the library for
speed: a session copies what the library would find out anew by introspection for each connection (0.12 ms
of it), content is read in blocks instead of lines, and a reply does not wait while the client keeps up.
Not here: decisions of any kind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, ClassVar, cast

from aiosmtpd.smtp import SMTP

from mailserver import maillog
from mailserver.mail.reply import Reply
from mailserver.mail.sasl import RESPONSE_OCTETS
from mailserver.smtp import replies
from mailserver.smtp.content import Content
from mailserver.smtp.replies import TOO_MANY_CONNECTIONS
from mailserver.smtp.site import Site, Timeouts
from mailserver.smtp.submission import Submitting
from mailserver.smtp.transaction import Chunk, Transaction
from mailserver.transport.connections import About
from mailserver.transport.listener import Peer
from mailserver.transport.tls import upgrade

__all__ = ["TOO_MANY_CONNECTIONS", "Session", "Site", "Timeouts"]

LINE = 2048  # octets of a command; RFC 5321 §4.5.3.1.4 wants 512 and what extensions add
READ_AHEAD = 64 * 1024  # octets of a client's input held before its connection is paused
BLOCK = 1 << 24  # more than can be read ahead: "all there is"
SOFT_ERRORS, HARD_ERRORS = 10, 100  # refused commands: after so many slowed down, after so many cut
ERROR_DELAY = 1.0  # seconds, for each refused command over the soft limit
TURN = 32  # replies to commands that came together, before other sessions have their turn
SMUGGLING_WAIT = 10.0  # seconds for an end of data that may never come

logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # the library's log; ours is maillog


class _Gone(Exception):
    """The connection is of no use any more."""


class _LineLimits(dict[str, int]):
    """The same limit for every other verb; not remembered, because clients make up verbs."""

    def __missing__(self, verb: str) -> int:
        return LINE


_LINE_LIMITS, _SUBMISSION_LIMITS = _LineLimits(), _LineLimits(AUTH=RESPONSE_OCTETS)


class Session(SMTP):
    """One connection."""

    command_size_limit = LINE
    _template: ClassVar[dict[str, Any]] = {}

    def __init__(self, site: Site, peer: Peer) -> None:
        # the library's constructor runs once, for the template
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_AHEAD, loop=loop)
        asyncio.StreamReaderProtocol.__init__(self, reader, self._cb_client_connected, loop)
        if not Session._template:
            Session._template = _template(loop, set(vars(self)))
        self.__dict__.update(Session._template)
        verbs = _LMTP_VERBS if site.policy.lmtp else _METHODS if site.submission else _SMTP_VERBS
        self._smtp_methods = {verb: getattr(self, name) for verb, name in verbs.items()}
        self.command_size_limits = _SUBMISSION_LIMITS if site.submission else _LINE_LIMITS
        self.loop, self.hostname = loop, site.policy.hostname
        self.__ident__ = "LMTP" if site.policy.lmtp else "ESMTP"
        self._timeout_duration = site.timeouts.idle
        self.site = site
        self.peer = peer
        self._submitting = submitting = Submitting(site.submission, peer) if site.submission else None
        self.dialogue = Transaction(site.policy, site.router, site.reception, peer.address, submitting)
        self.dialogue.secure = peer.secure
        self._errors = self._replies = 0
        self._silence_end = self._content_end = 0.0
        self._draining = self._closing = self._smuggling = False

    # -- connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expiry = self.loop.call_later(self.site.timeouts.session, self._expire)
        self.site.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._expiry.cancel()
        super().connection_lost(error)
        self.dialogue.reset()
        self.site.connections.discard(self)

    def eof_received(self) -> bool:
        """The client has said all it will say: answer what is still to be answered, then close."""
        self._reader.feed_eof()
        return not self.dialogue.secure

    def about(self) -> About:
        submitter = None if self._submitting is None else self._submitting.submitter
        protocol = "lmtp" if self.site.policy.lmtp else "submission" if self._submitting else "smtp"
        user = "" if submitter is None else submitter.name
        return About(protocol, self.peer.address, user, self.dialogue.secure)

    def drain(self) -> None:
        """Stop soon: at once between messages, else after the message under way."""
        self._draining = True
        if self.dialogue.idle:
            self._say_goodbye(replies.CLOSING)

    def abort(self) -> None:
        self._writer.transport.abort()

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Put the end of silence off. The timer is left alone (it looks when it rings): 3 % of a message."""
        self._silence_end = self.loop.time() + (duration or self._timeout_duration)
        if self._timeout_handle is None or self._timeout_handle.when() > self._silence_end:
            if self._timeout_handle is not None:
                self._timeout_handle.cancel()
            self._timeout_handle = self.loop.call_at(self._silence_end, self._timeout_cb)

    def _timeout_cb(self) -> None:
        if self.loop.time() < self._silence_end:
            self._timeout_handle = self.loop.call_at(self._silence_end, self._timeout_cb)
        elif self._smuggling:
            self._say_goodbye(replies.NO_END_OF_DATA)
        else:
            self._say_goodbye(replies.IDLE)

    def _expire(self) -> None:
        """The session's time is over; a message under way has its own time to be finished."""
        if self.dialogue.idle or self._draining:
            self._say_goodbye(replies.EXPIRED)
        else:
            self._draining = True
            self._expiry = self.loop.call_later(self.site.timeouts.content, self._expire)

    def _say_goodbye(self, reply: Reply) -> None:
        """Close from outside the command loop; RFC 5321 §3.8 lets a server do so with 421."""
        if not self._closing:
            maillog.event("session-ended", peer=self.peer.address, reply=reply)
            self._writer.write(reply.encode())
            self._hang_up()

    def _hang_up(self) -> None:
        """Close; nothing more is read, and what was read ahead is no longer answered."""
        self._closing = True
        self._writer.close()
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        self._reader.feed_eof()
        # a client that reads nothing must not keep the closing connection for ever
        self._expiry.cancel()
        self._expiry = self.loop.call_later(self.site.timeouts.handshake, self.abort)

    # -- replies ---------------------------------------------------------------------------------

    async def push(self, status: str | bytes) -> None:
        """Send what the library says in its own words in ours."""
        if self._closing or not status:
            return
        if str(status).startswith("220 "):
            reply = Reply(220, "", f"{self.hostname} {self.__ident__}")
        else:
            reply = replies.instead_of(str(status))
        await self._send(reply)

    async def _send(self, reply: Reply) -> None:
        if reply.permanent:
            reply = await self._count_error(reply)
        self._replies += 1
        if self._replies % TURN == 0:
            await asyncio.sleep(0)
        if self._closing:
            raise _Gone
        self._writer.write(reply.encode())
        if self._writer.transport.get_write_buffer_size():
            try:
                await self._writer.drain()
            except ConnectionError:
                raise _Gone from None
        if reply.code == 421:
            self._hang_up()

    async def _count_error(self, reply: Reply) -> Reply:
        """Slow down, then cut off, a client that only guesses."""
        self._errors += 1
        if self._errors > HARD_ERRORS:
            return replies.TOO_MANY_ERRORS
        if self._errors > SOFT_ERRORS:
            await asyncio.sleep(ERROR_DELAY)
        return reply

    async def handle_exception(self, error: Exception) -> str:
        """The unforeseen: a 451 for the client, place and kind for the log, never its text."""
        if isinstance(error, asyncio.IncompleteReadError | _Gone):
            self._writer.close()
            self.transport = None  # ends the library's loop
            return ""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "?"
        maillog.count("smtp.unforeseen")
        maillog.event("unforeseen", error=type(error).__name__, place=place, peer=self.peer.address)
        self.dialogue.reset()
        return "451"

    # -- verbs -----------------------------------------------------------------------------------

    async def smtp_HELO(self, hostname: str | None) -> None:
        await self._hello(hostname, extended=False)

    async def smtp_EHLO(self, hostname: str | None) -> None:
        await self._hello(hostname, extended=True)

    async def _hello(self, hostname: str | None, *, extended: bool) -> None:
        starttls = self.site.tls is not None and not self.dialogue.secure
        reply = self.dialogue.hello(hostname or "", extended=extended, starttls=starttls)
        if reply.positive:
            self.session.host_name, self.session.extended_smtp = hostname, True  # type: ignore[union-attr]
        await self._send(reply)

    async def smtp_AUTH(self, arg: str | None) -> None:
        await self._send(reply := await self.dialogue.auth(arg or ""))
        while reply.code == 334:
            await self._send(reply := await self.dialogue.respond(await self._read_response()))

    async def _read_response(self) -> bytes | None:
        """A line within AUTH, without its end; None for one that is too long. Never logged."""
        line, whole = b"", True
        while not line.endswith(b"\n"):
            try:
                line = await self._reader.readuntil()
            except asyncio.LimitOverrunError as error:
                await self._reader.read(error.consumed)
                whole = False
        self._reset_timeout()
        return line.rstrip(b"\r\n") if whole and len(line) <= RESPONSE_OCTETS else None

    async def smtp_MAIL(self, arg: str | None) -> None:
        await self._answer("sender-refused", arg, self.dialogue.mail(arg or ""))

    async def smtp_RCPT(self, arg: str | None) -> None:
        await self._answer("recipient-refused", arg, await self.dialogue.rcpt(arg or ""))

    async def _answer(self, refused: str, arg: str | None, reply: Reply) -> None:
        if not reply.positive:
            maillog.count(refused)
            maillog.event(refused, peer=self.peer.address, argument=(arg or "")[:300], reply=reply)
        await self._send(reply)

    async def smtp_DATA(self, arg: str | None) -> None:
        reply = replies.NO_ARGUMENT if arg else self.dialogue.data()
        await self._send(reply)
        if reply.code == 354 and await self._receive(self._read_data()):
            await self._finish()

    async def smtp_BDAT(self, arg: str | None) -> None:
        """A chunk (RFC 3030). Its octets are read whatever the reply will be."""
        chunk = self.dialogue.chunk(arg or "")
        if isinstance(chunk, Reply):
            await self._send(chunk)
            self._hang_up()  # how many octets follow is unknown: what comes cannot be read as commands
        elif not await self._receive(self._read_chunk(chunk)):
            return
        elif chunk.refused is not None:
            await self._send(chunk.refused)
        elif chunk.last:
            content = self.dialogue.content
            assert content is not None
            content.finish()
            await self._finish()
        else:
            await self._send(self.dialogue.chunk_done(chunk.octets))

    async def smtp_RSET(self, arg: str | None) -> None:
        if not arg:
            self.dialogue.reset()
        await self._send(replies.NO_ARGUMENT if arg else replies.OK)

    async def smtp_NOOP(self, arg: str | None) -> None:
        await self._send(replies.OK)

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self._send(replies.VRFY if arg else replies.VRFY_SYNTAX)

    async def smtp_EXPN(self, arg: str | None) -> None:
        await self._send(replies.EXPN)

    async def smtp_HELP(self, arg: str | None) -> None:
        await self._send(replies.HELP)

    async def smtp_QUIT(self, arg: str | None) -> None:
        if arg:
            await self._send(replies.NO_ARGUMENT)
            return
        self.dialogue.reset()
        await self._send(Reply(221, "2.0.0", f"{self.hostname} closing connection"))
        self._hang_up()

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        if arg:
            await self._send(replies.NO_ARGUMENT)
            return
        if self.site.tls is None or self.dialogue.secure:
            await self._send(replies.NO_TLS)
            return
        await self._send(replies.TLS_READY)
        plain = cast(asyncio.Transport, self.transport)  # uvloop's is none by name
        # RFC 3207 §4: what was pipelined after STARTTLS came in clear, perhaps from somebody else
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        try:
            secure = await upgrade(plain, self, self.site.tls(), self.site.timeouts.handshake)
        except OSError as error:
            maillog.count("tls.failed")
            plain.abort()
            self.connection_lost(error)  # nobody is told of the end of a failed handshake
            raise _Gone from None
        self._reader._transport = self._writer._transport = secure  # type: ignore[attr-defined]
        self.transport = secure
        self.session.host_name, self.session.extended_smtp = None, False  # type: ignore[union-attr]
        self.dialogue.tls_started()

    # -- content ---------------------------------------------------------------------------------

    async def _receive(self, reading: Awaitable[None]) -> bool:
        """Read content within its time limit; False when the session is over."""
        self._content_end = self.loop.time() + self.site.timeouts.content
        try:
            await reading
        except OSError:
            raise _Gone from None
        return not self._closing

    async def _read_data(self) -> None:
        content = self.dialogue.content
        assert content is not None
        while not content.ended:
            rest = content.feed(await self._read())
            if content.smuggling and not self._smuggling:
                self._smuggling = True
                self._reset_timeout(SMUGGLING_WAIT)
            await self._spill(content)
        self._smuggling = False
        if rest:
            # The buffer is empty here: pipelined commands stay in order. The client's end may be known.
            self._reader._buffer.extend(rest)  # type: ignore[attr-defined]

    async def _read_chunk(self, chunk: Chunk) -> None:
        content = None if chunk.refused else self.dialogue.content
        missing = chunk.octets
        while missing:
            block = await self._read(missing)
            missing -= len(block)
            if content is not None:
                content.feed(block)
                await self._spill(content)

    async def _spill(self, content: Content) -> None:
        """A disk that refuses is said at the end: until then the client would hear nothing else."""
        if content.wants_spill and (refusal := await self.site.reception.spill(content.message)):
            content.refuse(refusal)

    async def _read(self, most: int = BLOCK) -> bytes:
        block = await self._reader.read(min(most, BLOCK))
        if not block:
            raise _Gone
        if not self._smuggling:
            self._reset_timeout()
        if self.loop.time() > self._content_end:  # a slow sender, whom the idle limit does not stop
            self._say_goodbye(replies.IDLE)
            raise _Gone
        return block

    async def _finish(self) -> None:
        for reply in await self.dialogue.finish():
            await self._send(reply)
        self._reset_timeout()
        if self._draining:
            self._say_goodbye(replies.CLOSING)


_METHODS = {name.removeprefix("smtp_"): name for name in vars(Session) if name.startswith("smtp_")}
_SMTP_VERBS = {verb: name for verb, name in _METHODS.items() if verb != "AUTH"}
_LMTP_VERBS = {
    "LHLO" if verb == "EHLO" else verb: name for verb, name in _SMTP_VERBS.items() if verb != "HELO"
}


def _template(loop: asyncio.AbstractEventLoop, own: set[str]) -> dict[str, Any]:
    """What the library's constructor sets, apart from what belongs to each connection's stream."""
    built = SMTP(None, loop=loop, hostname="template", enable_SMTPUTF8=True)
    return {name: value for name, value in vars(built).items() if name not in own}
