"""The one subclass of aiosmtpd's SMTP: it translates between a connection and a `Transaction`.

From aiosmtpd it has a session's state, its time-out and flow control, and how many unknown verbs are too
many; what the library would find out anew by introspection for each connection (0.12 ms of
it), the class has once. Every verb is answered by `smtp.transaction`; no text of the library reaches a
client, and its command loop is not run: `smtp.conversation` has a quicker one. Not here: decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, cast

from aiosmtpd.smtp import BOGUS_LIMIT, SMTP

from mailserver import maillog
from mailserver.mail.reply import Reply
from mailserver.mail.sasl import RESPONSE_OCTETS
from mailserver.smtp import replies
from mailserver.smtp.content import Content
from mailserver.smtp.conversation import Answer, Conversation
from mailserver.smtp.replies import TOO_MANY_CONNECTIONS
from mailserver.smtp.site import Site, Timeouts
from mailserver.smtp.submission import Submitting
from mailserver.smtp.transaction import Chunk, Transaction
from mailserver.transport.connections import About
from mailserver.transport.lines import LineTooLong
from mailserver.transport.listener import Peer
from mailserver.transport.tls import upgrade

__all__ = ["TOO_MANY_CONNECTIONS", "Session", "Site", "Timeouts"]

LINE = 2048  # octets of a command; RFC 5321 §4.5.3.1.4 wants 512 and what extensions add
SMUGGLING_WAIT = 10.0  # seconds for an end of data that may never come


class Session(Conversation, SMTP):
    """One connection."""

    _built: ClassVar = False
    _chunk: Chunk | None = None
    _missing = _unknown = 0
    _content_end = 0.0

    def __init__(self, site: Site, peer: Peer) -> None:
        # the library's constructor runs once, for the class
        loop = asyncio.get_running_loop()
        if not Session._built:
            Session._built = True
            _build(loop)
        self._loop = self.loop = loop
        self._verbs = _LMTP_VERBS if site.policy.lmtp else _VERBS if site.submission else _SMTP_VERBS
        self.site = site
        self.peer = peer
        self._submitting = submitting = Submitting(site.submission, peer) if site.submission else None
        self.dialogue = Transaction(site.policy, site.router, site.reception, peer.address, submitting)
        self.dialogue.secure = peer.secure
        self._begin(Session._read_command)

    # -- connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._use(cast(asyncio.Transport, transport))  # uvloop's is none by name
        now, timeouts = self.loop.time(), self.site.timeouts
        self._silence_end, self._session_end = now + timeouts.idle, now + timeouts.session
        self._ring_at(min(self._silence_end, self._session_end))
        self.site.connections.add(self)
        if not self._closing:
            self._write(self.site.greeting)

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        if self._task is None:
            self._bury()
        else:  # one that was just made begins first, with what it is about
            self.loop.call_soon(self._task.cancel)
            self.loop.call_soon(self._bury)

    def _bury(self) -> None:
        self.dialogue.reset()
        self.site.connections.discard(self)

    def about(self) -> About:
        submitter = None if self._submitting is None else self._submitting.submitter
        protocol = "lmtp" if self.site.policy.lmtp else "submission" if self._submitting else "smtp"
        user = "" if submitter is None else submitter.name
        return About(protocol, self.peer.address, user, self.dialogue.secure)

    # -- commands --------------------------------------------------------------------------------

    def _read_command(self) -> Answer:
        try:
            line = self._input.next()
        except LineTooLong:
            return replies.LINE_TOO_LONG
        if line is None:
            return None
        verb, _, argument = line.rstrip(b"\r").partition(b" ")
        verb = verb.upper()
        if len(line) > LINE and (verb != b"AUTH" or len(line) > RESPONSE_OCTETS):
            return replies.LINE_TOO_LONG
        method = self._verbs.get(verb)
        if method is None:
            return self._no_verb(verb)
        self._silence_end = self.loop.time() + self.site.timeouts.idle
        # octets that are no UTF-8 are kept as they came
        answer: Answer = method(self, argument.strip().decode("utf-8", "surrogateescape"))
        return answer

    def _no_verb(self, verb: bytes) -> Answer:
        if not verb or not verb.isascii():
            return replies.BAD_LINE
        self._unknown += 1
        return replies.TOO_MANY_ERRORS if self._unknown >= BOGUS_LIMIT else replies.UNRECOGNIZED

    def _helo(self, name: str) -> Answer:
        return self.dialogue.hello(name, extended=False, starttls=False)

    def _ehlo(self, name: str) -> Answer:
        starttls = self.site.tls is not None and not self.dialogue.secure
        return self.dialogue.hello(name, extended=True, starttls=starttls)

    def _auth(self, argument: str) -> Answer:
        return self._log_in(self.dialogue.auth(argument))

    async def _log_in(self, step: Coroutine[Any, Any, Reply]) -> Reply:
        reply = await step
        self._read = Session._read_response if reply.code == 334 else Session._read_command
        return reply

    def _read_response(self) -> Answer:
        """A line within AUTH. Never logged."""
        try:
            line = self._input.next()
            if line is None:
                return None
            line = line.rstrip(b"\r\n")
        except LineTooLong:
            line = None
        if line is not None and len(line) > RESPONSE_OCTETS - 2:
            line = None
        self._put_off_silence()
        return self._log_in(self.dialogue.respond(line))

    def _mail(self, argument: str) -> Answer:
        reply = self.dialogue.mail(argument)
        return reply if reply.code < 400 else self._refused("sender-refused", argument, reply)

    def _rcpt(self, argument: str) -> Answer:
        reply = self.dialogue.rcpt(argument)
        if not isinstance(reply, Reply):
            return self._rcpt_later(argument, reply)
        return reply if reply.code < 400 else self._refused("recipient-refused", argument, reply)

    async def _rcpt_later(self, argument: str, routed: Coroutine[Any, Any, Reply]) -> Reply:
        reply = await routed
        return reply if reply.code < 400 else self._refused("recipient-refused", argument, reply)

    def _refused(self, event: str, argument: str, reply: Reply) -> Reply:
        maillog.count(event)
        maillog.event(event, peer=self.peer.address, argument=argument[:300], reply=reply)
        return reply

    def _rset(self, argument: str) -> Answer:
        if not argument:
            self.dialogue.reset()
        return replies.NO_ARGUMENT if argument else replies.OK

    def _noop(self, _: str) -> Answer:
        return replies.OK

    def _vrfy(self, argument: str) -> Answer:
        return replies.VRFY if argument else replies.VRFY_SYNTAX

    def _expn(self, _: str) -> Answer:
        return replies.EXPN

    def _help(self, _: str) -> Answer:
        return replies.HELP

    def _quit(self, argument: str) -> Answer:
        if argument:
            return replies.NO_ARGUMENT
        self._output += self.site.farewell
        self._hang_up()
        return None

    def _starttls(self, argument: str) -> Answer:
        if argument:
            return replies.NO_ARGUMENT
        if self.site.tls is None or self.dialogue.secure:
            return replies.NO_TLS
        self._send(replies.TLS_READY)
        self._flush()
        self._read = Session._begin_tls
        return self._begin_tls()

    def _begin_tls(self) -> Answer:
        """Once the client has taken what was before: the transport would tell its next protocol of that."""
        return None if self._paused else self._upgrade()

    async def _upgrade(self) -> list[Reply]:
        assert self.site.tls is not None
        self._read = Session._read_command
        plain = self._transport
        # RFC 3207 §4: what was pipelined after STARTTLS came in clear, perhaps from somebody else
        self._input.clear()
        try:
            self._use(await upgrade(plain, self, self.site.tls(), self.site.timeouts.handshake))
        except OSError as error:
            maillog.count("tls.failed")
            plain.abort()
            self.connection_lost(error)  # nobody is told of the end of a failed handshake
        else:
            if not self._hearing:  # so much came right behind the handshake that the plain one was paused
                plain.resume_reading()
                self._hearing = True
            self.dialogue.tls_started()
        return []

    # -- content ---------------------------------------------------------------------------------

    def _data(self, argument: str) -> Answer:
        reply = replies.NO_ARGUMENT if argument else self.dialogue.data()
        if reply.code == 354:
            self._expect(Session._read_data)
        return reply

    def _bdat(self, argument: str) -> Answer:
        """A chunk (RFC 3030). Its octets are read whatever the reply will be."""
        self._expect(Session._read_chunk)
        chunk = self.dialogue.chunk(argument)
        if isinstance(chunk, Reply):
            self._send(chunk)
            self._hang_up()  # how many octets follow is unknown: what comes cannot be read as commands
            return None
        self._chunk, self._missing = chunk, chunk.octets
        return self._read_chunk()

    @property
    def _in_content(self) -> bool:
        return self._read in (Session._read_data, Session._read_chunk)

    def _expect(self, read: Callable[[Session], Answer]) -> None:
        self._read = read
        self._content_end = self.loop.time() + self.site.timeouts.content

    def _read_data(self) -> Answer:
        content = self.dialogue.content
        assert content is not None
        if not content.ended:
            block = self._take()
            if not block:
                return None
            if rest := content.feed(block):  # pipelined commands
                self._input.feed(rest)  # it is empty: they stay in order
            if content.smuggling and not self._smuggling:
                self._smuggling = True
                self._silence_end = self.loop.time() + SMUGGLING_WAIT
                self._ring_at(min(self._silence_end, self._session_end))
            if content.wants_spill:
                return self._spill(content)
            if not content.ended:
                return None
        if self._smuggling:  # it came: the next command has all its time
            self._smuggling = False
            self._put_off_silence()
        self._read = Session._read_command
        return self._finish()

    def _read_chunk(self) -> Answer:
        chunk = self._chunk
        assert chunk is not None
        content = None if chunk.refused else self.dialogue.content
        while self._missing:
            block = self._take(self._missing)
            if not block:
                return None
            self._missing -= len(block)
            if content is not None:
                content.feed(block)
                if content.wants_spill:
                    return self._spill(content)
        self._read = Session._read_command
        if chunk.refused is not None:
            return chunk.refused
        if not chunk.last:
            return self.dialogue.chunk_done(chunk.octets)
        assert content is not None
        content.finish()
        return self._finish()

    def _take(self, most: int | None = None) -> bytes:
        """Octets of content, none if there are none, or no more time."""
        block = self._input.take(most)
        if not block:
            return b""
        now = self.loop.time()
        if now > self._content_end:  # a slow sender, whom the idle limit does not stop
            self._say_goodbye(replies.IDLE)
            return b""
        if not self._smuggling:
            self._silence_end = now + self.site.timeouts.idle
        return block

    async def _spill(self, content: Content) -> list[Reply]:
        """A disk that refuses is said at the end: until then the client would hear nothing else."""
        if refusal := await self.site.reception.spill(content.message):
            content.refuse(refusal)
        return []

    def _finish(self) -> Answer:
        refusal = self.dialogue.finish(self._committed)
        self._committing = refusal is None
        return refusal

    def _committed(self, errors: list[Reply | None]) -> None:
        """Called, not waited for in a task: that took a tenth to a fifth of all from DATA to the reply."""
        self._committing = False
        try:
            answers = self.dialogue.replies(errors)
        except Exception as error:
            answers = [self._excuse(error)]
        if self._closing:  # the client has gone meanwhile
            return
        self._put_off_silence()
        for reply in answers:
            self._send(reply)
        self._converse()


_VERBS: dict[bytes, Callable[[Session, str], Answer]] = {
    b"HELO": Session._helo,
    b"EHLO": Session._ehlo,
    b"STARTTLS": Session._starttls,
    b"AUTH": Session._auth,
    b"MAIL": Session._mail,
    b"RCPT": Session._rcpt,
    b"DATA": Session._data,
    b"BDAT": Session._bdat,
    b"RSET": Session._rset,
    b"NOOP": Session._noop,
    b"VRFY": Session._vrfy,
    b"EXPN": Session._expn,
    b"HELP": Session._help,
    b"QUIT": Session._quit,
}
_SMTP_VERBS = {verb: method for verb, method in _VERBS.items() if verb != b"AUTH"}
_LMTP_VERBS = {b"LHLO" if verb == b"EHLO" else verb: m for verb, m in _SMTP_VERBS.items() if verb != b"HELO"}
_OF_CONNECTION = {"_closed", "_stream_reader_wr", "_strong_reader", "_client_connected_cb", "_handle_hooks"}


def _build(loop: asyncio.AbstractEventLoop) -> None:
    """What the library's constructor sets, apart from what belongs to each connection's stream: sessions have
    it from their class, which is quicker and smaller than having it each."""
    for name, value in vars(SMTP(None, loop=loop, hostname="template")).items():
        if name not in _OF_CONNECTION:
            setattr(Session, name, value)
